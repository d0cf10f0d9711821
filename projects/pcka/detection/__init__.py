"""PCKA for Detectron2.

Importing this registers the meta-architectures ``DistilledDetector`` and ``FCOS``, the backbones of
``backbones`` (narrow ResNets), ``mobilenet`` and ``fcos``, and the digits data sets, so that
configs can name them.
"""

from . import backbones, fcos, mobilenet
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
    "fcos",
    "load_config",
    "mobilenet",
    "student_config",
]

register_digits()
