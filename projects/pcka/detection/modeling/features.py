"""Which features of a detectron2 detector can be distilled, by name."""

from collections.abc import Mapping

from torch import nn

from pcka.core import FeatureShape
from pcka.detection.config import ConfigError


def feature_modules(detector: nn.Module) -> dict[str, nn.Module]:
    """Modules whose outputs are features: the backbone and, of an FPN, its bottom-up network."""
    if not isinstance(getattr(detector, "backbone", None), nn.Module):
        raise ConfigError(
            f"{type(detector).__name__} has no `backbone` whose features could be distilled"
        )
    modules = {"backbone": detector.backbone}
    if isinstance(getattr(detector.backbone, "bottom_up", None), nn.Module):
        # First, so that a level of the FPN wins where both give one name.
        modules = {"backbone.bottom_up": detector.backbone.bottom_up, **modules}
    return modules


def feature_shapes(detector: nn.Module) -> dict[str, FeatureShape]:
    """Channels and stride of each: FPN levels (``p2`` ...) first, then stages (``res2`` ...)."""
    shapes: dict[str, FeatureShape] = {}
    for module in reversed(feature_modules(detector).values()):
        output: Mapping = module.output_shape() if hasattr(module, "output_shape") else {}
        for name, spec in output.items():
            shapes.setdefault(name, FeatureShape(spec.channels, spec.stride))
    return shapes
