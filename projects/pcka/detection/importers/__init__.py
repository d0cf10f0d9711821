"""Weights of mmdetection, torchvision and timm as detectron2 checkpoints."""

from .convert import Conversion, convert
from .inputs import input_settings, settings_to_change
from .weight_files import check_output, read_weights, write_checkpoint

__all__ = [
    "Conversion",
    "check_output",
    "convert",
    "input_settings",
    "read_weights",
    "settings_to_change",
    "write_checkpoint",
]
