"""Detectors in experiments: how their runs are read, compared and drawn."""
