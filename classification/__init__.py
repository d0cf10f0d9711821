"""Knowledge distillation for image classification on the shared core."""
