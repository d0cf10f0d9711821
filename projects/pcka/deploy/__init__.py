"""Using a finished run: predictions on new images, and files that run elsewhere.

Training imports nothing of this package. Modules of classifiers work without detectron2.
"""
