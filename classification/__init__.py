"""Knowledge distillation between image classifiers, on the losses of :mod:`pcka.core`."""
