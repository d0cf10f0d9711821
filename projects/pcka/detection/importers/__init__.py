"""Weights of mmdetection, torchvision and timm as detectron2 checkpoints."""

from .convert import Conversion, convert
from .files import check_output, read_weights, write_checkpoint
from .inputs import input_settings, settings_to_change

__all__ = [
    "Conversion",
    "check_output",
    "convert",
    "input_settings",
    "read_weights",
    "settings_to_change",
    "write_checkpoint",
]
