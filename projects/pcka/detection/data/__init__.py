"""Data sets: COCO files that the config names, and the embedded digits scenes."""
