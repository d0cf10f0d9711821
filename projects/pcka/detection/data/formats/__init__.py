"""Readers of the folders that labelling tools export, one file a format."""
