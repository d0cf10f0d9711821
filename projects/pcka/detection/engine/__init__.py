"""Training: the trainer, its hooks, its data stream, precision and processes."""
