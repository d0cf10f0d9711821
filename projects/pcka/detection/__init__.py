"""PCKA for Detectron2.

Importing this registers the meta-architectures ``DistilledDetector`` and ``FCOS``, the backbones of
``narrow_resnet``, ``mobilenet``, ``timm_backbone`` and ``fcos``, and the digits data sets, so
that configs can name them.
"""

import warnings

# detectron2 and its jit functions warn at import under newer torch and setuptools.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pkg_resources.*")
    from .config import ConfigError, add_pcka_config, load_config, student_config
    from .data.digits import register_digits
    from .engine.trainer import Trainer
    from .modeling import fcos, mobilenet, narrow_resnet, timm_backbone
    from .modeling.distilled_detector import DistilledDetector
    from .modeling.teacher import FrozenTeacher, build_teacher

__all__ = [
    "ConfigError",
    "DistilledDetector",
    "FrozenTeacher",
    "Trainer",
    "add_pcka_config",
    "build_teacher",
    "fcos",
    "load_config",
    "mobilenet",
    "narrow_resnet",
    "student_config",
    "timm_backbone",
]

register_digits()
