"""PCKA for Detectron2.

Importing this registers the meta-architecture ``DistilledDetector``, the backbone
``build_narrow_resnet_fpn_backbone`` and the digits data sets, so that configs can name them.
"""

from . import backbones
from .config import ConfigError, add_pcka_config, load_config, student_config
from .digits import register_digits
from .distiller import DistilledDetector
from .teacher import FrozenTeacher, build_teacher
from .trainer import Trainer

__all__ = [
    "ConfigError",
    "DistilledDetector",
    "FrozenTeacher",
    "Trainer",
    "add_pcka_config",
    "backbones",
    "build_teacher",
    "load_config",
    "student_config",
]

register_digits()
