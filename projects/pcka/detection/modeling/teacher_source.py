"""The detector that MODEL.PCKA.TEACHER names: YAML or LazyConfig, a path or a name of the zoo."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from omegaconf import OmegaConf
from torch import nn

from pcka.detection.checks.timm_checks import check_timm
from pcka.detection.config import ConfigError, load_config, student_config

from .lazy_teacher import build_lazy_model, lazy_input_format, load_lazy_config


@dataclass(frozen=True)
class TeacherSource:
    """A teacher as its config describes it; nothing is built or fetched yet."""

    build: Callable[[], nn.Module]
    weights: str
    input_format: str


def teacher_source(cfg: CfgNode) -> TeacherSource:
    """Read MODEL.PCKA.TEACHER, whose config is YAML or a LazyConfig (.py, which is run).

    Raises:
        ConfigError: CONFIG_FILE missing, neither a file nor a zoo name, or without weights.
    """
    teacher = cfg.MODEL.PCKA.TEACHER
    if not teacher.CONFIG_FILE.endswith(".py"):
        plain = teacher_config(cfg)
        return TeacherSource(partial(build_model, plain), plain.MODEL.WEIGHTS, plain.INPUT.FORMAT)
    path, zoo_name = _config_file(teacher.CONFIG_FILE)
    lazy = load_lazy_config(path, teacher.OPTS)
    return TeacherSource(
        lambda: build_lazy_model(lazy, path).to(cfg.MODEL.DEVICE),
        _weights(teacher, zoo_name, OmegaConf.select(lazy, "train.init_checkpoint")),
        lazy_input_format(lazy, path),
    )


def teacher_config(cfg: CfgNode) -> CfgNode:
    """Return a YAML teacher as a plain detectron2 config with its weights and the student's device.

    Raises:
        ConfigError: CONFIG_FILE missing, neither a file nor a zoo name, without weights, or with a
            network of timm that cannot be used.
    """
    teacher = cfg.MODEL.PCKA.TEACHER
    if not teacher.CONFIG_FILE:
        raise ConfigError(
            "MODEL.PCKA.TEACHER.CONFIG_FILE is empty: give a path or a model-zoo name, such as "
            "COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml, or train without terms "
            "(MODEL.PCKA.LOSS_WEIGHT 0)"
        )
    path, zoo_name = _config_file(teacher.CONFIG_FILE)
    teacher_cfg = load_config(path, teacher.OPTS)
    teacher_cfg.MODEL.WEIGHTS = _weights(teacher, zoo_name, teacher_cfg.MODEL.WEIGHTS)
    teacher_cfg.MODEL.DEVICE = cfg.MODEL.DEVICE
    for problem in check_timm(teacher_cfg):
        raise ConfigError(f"the teacher's config {path}: {problem}")
    return student_config(teacher_cfg)


def _weights(teacher: CfgNode, zoo_name: str, own: str | None) -> str:
    """Return TEACHER.WEIGHTS, else the zoo's weights, else those that the config itself names."""
    weights = teacher.WEIGHTS or (_zoo_weights(zoo_name) if zoo_name else own)
    if not weights:
        raise ConfigError(
            f"teacher {teacher.CONFIG_FILE} names no weights: set MODEL.PCKA.TEACHER.WEIGHTS to "
            "its trained checkpoint"
        )
    return weights


def _config_file(name: str) -> tuple[str, str]:
    """Return ``(path, "")`` for a file, ``(path, name)`` for a name of detectron2's model zoo."""
    return (name, "") if os.path.isfile(name) else (zoo_file(name), name)


def zoo_file(name: str) -> str:
    """Return the path of a config of detectron2's model zoo; ConfigError for an unknown name."""
    try:
        return _model_zoo().get_config_file(name)
    except RuntimeError as error:
        raise ConfigError(
            f"config {name!r} is neither a file here ({os.path.abspath(name)}) nor a "
            "name of detectron2's model zoo, such as COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml"
        ) from error


def _zoo_weights(name: str) -> str:
    try:
        return _model_zoo().get_checkpoint_url(name)
    except RuntimeError as error:
        raise ConfigError(
            f"the model zoo has no weights for {name!r}: set MODEL.PCKA.TEACHER.WEIGHTS"
        ) from error


def _model_zoo() -> ModuleType:
    """Import detectron2's model zoo, which needs pkg_resources, absent from newer setuptools."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pkg_resources.*")
        from detectron2 import model_zoo
    return model_zoo
