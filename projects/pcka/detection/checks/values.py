"""Checks of single values of a config, which detectron2 would meet late and without their key."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY

from pcka.errors import nearest
from pcka.keys import leaves

from .timm_checks import check_timm

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


def _between(least: float, most: float) -> Rule:
    return lambda value: least <= value <= most, f"from {least} to {most}"


def _each(test: Callable[[Any], bool], words: str) -> Rule:
    """Return the rule that a list holds numbers that pass a test, or such lists, none empty."""

    def fits(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return bool(value) and all(map(fits, value))
        return test(value)

    return fits, words


def _numbers(value: Any) -> Iterable[Any]:
    """Yield what a list of lists holds."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    else:
        yield value


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= torch.finfo(torch.float32).max


def _is_positive(value: Any) -> bool:
    return _is_finite(value) and value >= torch.finfo(torch.float32).tiny  # less is 0 in float32


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
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": (
        lambda v: (
            all(isinstance(w, list | tuple) and len(w) == 4 for w in v)
            and all(map(_is_positive, _numbers(v)))
        ),
        "four numbers above 0 for each stage",
    ),
    "INPUT.FORMAT": _one_of(_FORMATS),
    "INPUT.MIN_SIZE_TRAIN": (_are_sizes, "one size in pixels or more; 0 leaves images as they are"),
    "INPUT.MASK_FORMAT": _one_of(("polygon", "bitmask")),
    "INPUT.MAX_SIZE_TRAIN": _at_least(1),
    "INPUT.MIN_SIZE_TEST": _at_least(0),
    "INPUT.MAX_SIZE_TEST": _at_least(1),
    "INPUT.CROP.TYPE": _one_of(("relative", "relative_range", "absolute", "absolute_range")),
    "INPUT.CROP.SIZE": (lambda v: len(v) == 2 and all(map(_is_positive, v)), "two numbers above 0"),
    "DATALOADER.NUM_WORKERS": _between(0, 4096),
    "DATALOADER.REPEAT_THRESHOLD": _at_least(0),
    "SOLVER.IMS_PER_BATCH": _between(1, 2**20),
    "SOLVER.BASE_LR": _at_least(0),
    "SOLVER.MAX_ITER": _at_least(1),
    "SOLVER.MOMENTUM": (lambda v: 0 <= v < 1, "from 0 up and below 1"),
    "SOLVER.WARMUP_FACTOR": _at_least(0),
    "SOLVER.WEIGHT_DECAY": _at_least(0),
    "SOLVER.WEIGHT_DECAY_NORM": _at_least(0),
    "SOLVER.BIAS_LR_FACTOR": _at_least(0),
    "SOLVER.GAMMA": _at_least(0),
    "SOLVER.WARMUP_ITERS": _at_least(0),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (_is_positive, "above 0"),
    "SOLVER.CHECKPOINT_PERIOD": _at_least(1),
    "SOLVER.LR_SCHEDULER_NAME": _one_of(_SCHEDULES),
    "SOLVER.AMP.DTYPE": _one_of(("float16", "bfloat16")),
    "SOLVER.STEPS": (
        lambda v: all(isinstance(s, int) for s in v) and list(v) == sorted(set(v)),
        "iterations in ascending order",
    ),
    "TEST.EVAL_PERIOD": _at_least(0),
    "TEST.DETECTIONS_PER_IMAGE": (lambda v: v > 0 or v == -1, "1 or more, or -1 for all"),
    "TEST.EXPECTED_RESULTS": (
        lambda v: all(isinstance(entry, list | tuple) and len(entry) == 4 for entry in v),
        "a list of [task, metric, value, tolerance]",
    ),
}

_SHARE = _between(0, 1)
_ANY: Rule = (lambda value: True, "")
# Rules of all keys of a name, such as NUM_CLASSES of every head.
_RULES_OF_NAMES: dict[str, Rule] = {
    "NUM_CLASSES": _at_least(1),
    "BATCH_SIZE_PER_IMAGE": _at_least(1),
    "POSITIVE_FRACTION": _SHARE,
    "PRE_NMS_TOPK_TRAIN": _at_least(1),
    "PRE_NMS_TOPK_TEST": _at_least(1),
    "POST_NMS_TOPK_TRAIN": _at_least(1),
    "POST_NMS_TOPK_TEST": _at_least(1),
    "TOPK_CANDIDATES_TEST": _at_least(1),
    "NMS_THRESH": _SHARE,
    "NMS_THRESH_TEST": _SHARE,
    "SCORE_THRESH_TEST": (lambda v: v < 1, "below 1"),
    "PRIOR_PROB": (lambda v: 0 < v < 1, "between 0 and 1"),
    "LOSS_WEIGHT": _at_least(0),
    "BBOX_REG_LOSS_WEIGHT": _at_least(0),
    "BBOX_REG_LOSS_TYPE": _one_of(("smooth_l1", "giou", "diou", "ciou")),
    "BBOX_REG_WEIGHTS": (
        lambda v: len(v) in (4, 5) and all(map(_is_positive, v)),  # 5 of rotated boxes
        "four numbers above 0",
    ),
    "SMOOTH_L1_BETA": _at_least(0),
    "SMOOTH_L1_LOSS_BETA": _at_least(0),
    "FOCAL_LOSS_ALPHA": (lambda v: v <= 1, "at most 1"),
    "FOCAL_LOSS_GAMMA": _at_least(0),
    "CENTER_SAMPLING_RADIUS": (_is_positive, "above 0"),
    "POOLER_RESOLUTION": _at_least(1),
    "FC_DIM": _at_least(1),
    "CONV_DIM": _at_least(1),
    "NUM_CONV": _at_least(0),
    "NUM_CONVS": _at_least(0),
    "NUM_FC": _at_least(0),
    "SIZES": _each(_is_positive, "lists of numbers above 0"),
    "ASPECT_RATIOS": _each(_is_positive, "lists of numbers above 0"),
    "STEM_OUT_CHANNELS": _at_least(1),
    "RES2_OUT_CHANNELS": _at_least(1),
    "WIDTH_PER_GROUP": _at_least(1),
}


def check_values(cfg: CfgNode) -> list[str]:
    """Return the values of a config that cannot work, each with its key."""
    problems = []
    for key, value in leaves(cfg).items():
        numbers = list(_numbers(value))
        if not all(_is_finite(v) for v in numbers if isinstance(v, float)):
            problems.append(f"{key} is finite and in the range of float32, got {value!r}")
            continue
        if any(isinstance(v, int) and abs(v) >= 2**63 for v in numbers):
            problems.append(f"{key} is in the range of 64-bit integers, got {value!r}")
            continue
        fits, wanted = _RULES.get(key) or _RULES_OF_NAMES.get(key.rsplit(".", 1)[-1], _ANY)
        if not fits(value):
            problems.append(f"{key} is {wanted}, got {value!r}")
    name = cfg.MODEL.BACKBONE.NAME
    if name not in BACKBONE_REGISTRY:
        problems.append(f"MODEL.BACKBONE.NAME {name!r} is not registered{_hint(name)}")
    problems += _check_pixels(cfg) or check_timm(cfg)
    if cfg.TEST.AUG.ENABLED:
        problems.append("TEST.AUG.ENABLED: test-time augmentation is not evaluated here: set False")
    outputs = cfg.MODEL.RESNETS.OUT_FEATURES
    absent = [level for level in cfg.MODEL.FPN.IN_FEATURES if level not in outputs]
    if "fpn" in name and not cfg.MODEL.FPN.IN_FEATURES:
        problems.append("MODEL.FPN.IN_FEATURES is empty: name the stages, such as ['res2', ...]")
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
