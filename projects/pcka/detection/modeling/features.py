"""Features of a detectron2 detector that can be distilled, by name."""

from collections.abc import Callable
from typing import Any

from torch import nn

from pcka.core import FeatureShape
from pcka.detection.config import ConfigError

# A detectron2 meta-architecture. They share attributes such as ``backbone`` and ``device``, but no
# base class that declares them.
Detector = Any


def feature_modules(detector: Detector) -> dict[str, nn.Module]:
    """Return the modules whose outputs are features: the backbone and its bottom-up network.

    The backbone comes last, so that its level is kept where both use one name.

    Raises:
        ConfigError: a detector without a backbone.
    """
    backbone = getattr(detector, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ConfigError(
            f"{type(detector).__name__} has no `backbone` whose features could be distilled"
        )
    bottom_up = getattr(backbone, "bottom_up", None)
    if isinstance(bottom_up, nn.Module):
        return {"backbone.bottom_up": bottom_up, "backbone": backbone}
    return {"backbone": backbone}


def feature_shapes(detector: Detector) -> dict[str, FeatureShape]:
    """Return channels and strides: FPN levels (``p2`` ...) first, then stages (``res2`` ...)."""
    shapes: dict[str, FeatureShape] = {}
    for module in reversed(feature_modules(detector).values()):
        output_shape: Callable[[], dict] = getattr(module, "output_shape", dict)
        for name, spec in output_shape().items():
            shapes.setdefault(name, FeatureShape(spec.channels, spec.stride))
    return shapes
