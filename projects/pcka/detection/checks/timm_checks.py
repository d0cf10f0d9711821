"""Checks of a backbone of timm before training: its name, its maps and the images it expects."""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from pcka.detection.modeling.timm_backbone import TimmBackbone, build_timm_backbone
from pcka.errors import ConfigError
from pcka.timm_networks import check_timm_name, pixel_statistics

_BUILDERS = "timm_backbone", "timm_fpn_backbone"
_TOLERANCE = 0.5  # of mean and std, from 0 to 255
_HEIGHT, _WIDTH = 128, 160  # of the image that is tried: multiples of 32, and no square


def check_timm(cfg: CfgNode) -> list[str]:
    """Return what keeps MODEL.TIMM from being trained; nothing for any other backbone.

    Args:
        cfg: the config of a student, or of a teacher.
    """
    if not cfg.MODEL.BACKBONE.NAME.endswith(_BUILDERS):
        return []
    name = cfg.MODEL.TIMM.NAME
    if not name:
        return [
            f"MODEL.TIMM.NAME is empty, and {cfg.MODEL.BACKBONE.NAME} needs a name of timm, such "
            "as resnet18.a1_in1k"
        ]
    try:
        check_timm_name(name)
        # Shapes alone: nothing is allocated or drawn.
        with torch.device("meta"):
            backbone = build_timm_backbone(cfg, ShapeSpec(channels=3))
            _try(backbone)
    except ConfigError as error:
        return [f"MODEL.TIMM.NAME: {error}"]
    return _pixel_problems(cfg) if cfg.MODEL.TIMM.CHECK_PIXELS else []


def _try(backbone: TimmBackbone) -> None:
    """Raise ConfigError for a network whose maps of a small image are not those that it says."""
    name = backbone.name
    other = "detectors see images of many sizes, so take another network"
    try:
        with torch.no_grad():
            maps = backbone.eval()(torch.empty(1, 3, _HEIGHT, _WIDTH))
    except NotImplementedError:  # an operation that cannot be computed for shapes alone
        return
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"timm's {name} cannot take an image of {_HEIGHT}x{_WIDTH} pixels ({reason}): {other}"
        ) from error
    for level, spec in backbone.output_shape().items():
        wanted = (spec.channels, _HEIGHT // spec.stride, _WIDTH // spec.stride)
        found = tuple(maps[level].shape[1:])
        if found != wanted:
            raise ConfigError(
                f"timm's {name} gives a map of {found} for {level}, not {wanted} (C, H, W), of an "
                f"image of {_HEIGHT}x{_WIDTH} pixels, and an FPN cannot add its levels: take "
                "another network"
            )


def _pixel_problems(cfg: CfgNode) -> list[str]:
    """Return one line where channel order or pixel statistics are not those of timm's weights."""
    name = cfg.MODEL.TIMM.NAME
    mean, std = pixel_statistics(name)
    wanted = {"INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": std}
    wrong = {
        "INPUT.FORMAT": cfg.INPUT.FORMAT != "RGB",
        "MODEL.PIXEL_MEAN": _differ(cfg.MODEL.PIXEL_MEAN, mean),
        "MODEL.PIXEL_STD": _differ(cfg.MODEL.PIXEL_STD, std),
    }
    if not any(wrong.values()):
        return []
    lines = ", ".join(f"{key} {value}" for key, value in wanted.items() if wrong[key])
    return [
        f"timm's {name} expects other images than the config gives: write {lines} (or "
        "MODEL.TIMM.CHECK_PIXELS False, if its weights were trained with the config's values)"
    ]


def _differ(values: list[float], wanted: list[float]) -> bool:
    return len(values) != len(wanted) or any(
        abs(a - b) > _TOLERANCE for a, b in zip(values, wanted, strict=True)
    )
