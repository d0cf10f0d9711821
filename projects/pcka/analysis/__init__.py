"""Pictures of what distillation did, and the page that gathers them; for both sides."""
