"""Classifiers by name, one family per file.

Names, and the parameter names inside, are those under which trained weights are published
(RepDistiller, mdistiller and ReviewKD for CIFAR; torchvision for ImageNet; ``timm:NAME`` as timm
has them). A name that means a network for ImageNet elsewhere carries ``_cifar`` here:
``mobilenet_v2_cifar``. The small-image networks pool globally and take any size. None of the
networks here works in place, so that the output of any submodule can be tapped.
"""

from collections.abc import Callable
from difflib import get_close_matches

from torch import nn

from . import (
    imagenet,
    mobilenet_v1,
    mobilenet_v2,
    resnet,
    resnet_bottleneck,
    shufflenet_v1,
    shufflenet_v2,
    timm_zoo,
    vgg,
    wide_resnet,
)
from .features import feature_modules

_TORCHVISION = "torchvision:"
_TIMM = "timm:"
_MODELS: dict[str, Callable[[int], nn.Module]] = {
    **resnet.MODELS,
    **resnet_bottleneck.MODELS,
    **wide_resnet.MODELS,
    **vgg.MODELS,
    **shufflenet_v1.MODELS,
    **shufflenet_v2.MODELS,
    **mobilenet_v2.MODELS,
    **mobilenet_v1.MODELS,
    **imagenet.MODELS,
}


def model_names() -> list[str]:
    """Return the names of :func:`create_model` without ``torchvision:NAME`` and ``timm:NAME``."""
    return list(_MODELS)


def create_model(name: str, num_classes: int) -> nn.Module:
    """Build a classifier with random weights: ``(B, 3, H, W)`` -> logits ``(B, num_classes)``.

    Args:
        name: one of :func:`model_names`, or ``torchvision:NAME`` or ``timm:NAME`` for any
            of their classifiers.
        num_classes: at least 1.

    Raises:
        ValueError: an unknown name, with the nearest known ones, or no number of classes; timm
            is asked for and missing.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes is a whole number of at least 1, got {num_classes!r}")
    if name in _MODELS:
        return _MODELS[name](num_classes)
    if str(name).startswith(_TIMM):
        return timm_zoo.timm_classifier(num_classes, name=name.removeprefix(_TIMM))
    known = list(_MODELS)
    if str(name).startswith(_TORCHVISION):
        known = [_TORCHVISION + n for n in imagenet.torchvision_names()]
        if name in known:
            return imagenet.torchvision_model(num_classes, name=name.removeprefix(_TORCHVISION))
    wanted = str(name).lower()
    near = [n for n in known if n.startswith(wanted)] + get_close_matches(wanted, known, n=4)
    raise ValueError(
        f"unknown model {name!r}, did you mean {', '.join(dict.fromkeys(near or known))}?"
    )


__all__ = ["create_model", "feature_modules", "model_names"]
