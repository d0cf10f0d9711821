"""Networks: the distilled detector, its teacher, and the backbones that configs name."""
