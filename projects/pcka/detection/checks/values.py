"""Checks of single values of a config, which detectron2 would meet late and without their key."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY

from pcka.detection.config_files import lookup
from pcka.errors import nearest

_NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")
_FORMATS = ("BGR", "RGB", "L", "YUV-BT.601")
_SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
_DEVICES = ("cpu", "cuda", "mps", "xpu")

# Key -> the test of its value, and what the value has to be.
Rule = tuple[Callable[[Any], bool], str]


def _at_least(least: int) -> Rule:
    return lambda value: value >= least, f"{least} or more"


def _one_of(known: Iterable[str]) -> Rule:
    known = tuple(known)
    return lambda value: value in known, "one of " + ", ".join(repr(name) for name in known)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _are_sizes(value: Any) -> bool:
    sizes = value if isinstance(value, list | tuple) else [value]
    return len(sizes) > 0 and all(isinstance(size, int) and size >= 0 for size in sizes)


def _is_device(value: str) -> bool:
    try:
        return torch.device(value).type in _DEVICES
    except RuntimeError:
        return False


_RULES: dict[str, Rule] = {
    "OUTPUT_DIR": (lambda v: bool(v.strip()), "a folder"),
    "SEED": (lambda v: v < 2**32, "below 2**32; negative draws one"),
    "MODEL.DEVICE": (_is_device, f"{', '.join(_DEVICES)} or one of them with a number: cuda:1"),
    "MODEL.PCKA.PICTURE_PERIOD": _at_least(0),
    "MODEL.FPN.NORM": _one_of(_NORMS),
    "MODEL.FPN.OUT_CHANNELS": _at_least(1),
    "MODEL.RESNETS.NORM": _one_of(_NORMS),
    "MODEL.FCOS.NORM": _one_of(_NORMS),
    "INPUT.FORMAT": _one_of(_FORMATS),
    "INPUT.MIN_SIZE_TRAIN": (_are_sizes, "one size in pixels or more; 0 leaves images as they are"),
    "INPUT.MASK_FORMAT": _one_of(("polygon", "bitmask")),
    "INPUT.MAX_SIZE_TRAIN": _at_least(1),
    "INPUT.MIN_SIZE_TEST": _at_least(0),
    "INPUT.MAX_SIZE_TEST": _at_least(1),
    "DATALOADER.NUM_WORKERS": _at_least(0),
    "SOLVER.IMS_PER_BATCH": _at_least(1),
    "SOLVER.BASE_LR": (lambda v: _is_finite(v) and v >= 0, "a finite number from 0 up"),
    "SOLVER.MAX_ITER": _at_least(1),
    "SOLVER.MOMENTUM": (lambda v: 0 <= v < 1, "from 0 up and below 1"),
    "SOLVER.WARMUP_FACTOR": (lambda v: _is_finite(v) and v >= 0, "a finite number from 0 up"),
    "SOLVER.WEIGHT_DECAY": (lambda v: _is_finite(v) and v >= 0, "a finite number from 0 up"),
    "SOLVER.CHECKPOINT_PERIOD": _at_least(1),
    "SOLVER.LR_SCHEDULER_NAME": _one_of(_SCHEDULES),
    "SOLVER.STEPS": (
        lambda v: all(isinstance(s, int) for s in v) and list(v) == sorted(set(v)),
        "iterations in ascending order",
    ),
}


def check_values(cfg: CfgNode) -> list[str]:
    """Return the values of a config that cannot work, each with its key."""
    problems = [
        f"{key} is {wanted}, got {lookup(cfg, key)!r}"
        for key, (fits, wanted) in _RULES.items()
        if not fits(lookup(cfg, key))
    ]
    name = cfg.MODEL.BACKBONE.NAME
    if name not in BACKBONE_REGISTRY:
        problems.append(f"MODEL.BACKBONE.NAME {name!r} is not registered{_hint(name)}")
    problems += _check_pixels(cfg)
    if cfg.TEST.AUG.ENABLED:
        problems.append("TEST.AUG.ENABLED: test-time augmentation is not evaluated here: set False")
    outputs = cfg.MODEL.RESNETS.OUT_FEATURES
    absent = [level for level in cfg.MODEL.FPN.IN_FEATURES if level not in outputs]
    if "fpn" in name and absent:
        problems.append(
            f"MODEL.FPN.IN_FEATURES {absent} are not among MODEL.RESNETS.OUT_FEATURES "
            f"{list(outputs)}"
        )
    return problems


def _check_pixels(cfg: CfgNode) -> list[str]:
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    problems = []
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        values = cfg.MODEL[key]
        if len(values) != channels or not all(map(_is_finite, values)):
            problems.append(
                f"MODEL.{key} is {channels} finite number(s), one for each channel of INPUT.FORMAT "
                f"{cfg.INPUT.FORMAT}, got {list(values)}"
            )
        elif key == "PIXEL_STD" and min(values) <= 0:
            problems.append(
                f"MODEL.PIXEL_STD divides the images and is above 0, got {list(values)}"
            )
    return problems


def _hint(name: str) -> str:
    known = sorted(key for key, _ in BACKBONE_REGISTRY)
    close = nearest(name, known)
    return f", did you mean {close!r}?" if close else f": one of {', '.join(known)}"
