"""timm's classifiers, with their features by the common names.

A feature is read where a module returns it. The maps of some networks of timm are laid out
``(B, H, W, C)``, and the input of the pooling is the output of no module that all networks share.
Such features pass through an ``nn.Identity`` of ``feature_maps``, which holds no weights.
"""

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from pcka.timm_networks import timm_model

_FINEST = 4  # the stride of stage1; maps of a larger size belong to the stem


class _Forwarded:
    """A hook that sends a map through an identity as ``(B, C, H, W)``.

    It is an object, not a function, so that a copy of the model has a hook of its own.

    Args:
        tap: the identity.
        channels_last: whether the map is laid out ``(B, H, W, C)``.
    """

    def __init__(self, tap: nn.Module, *, channels_last: bool):
        self.tap = tap
        self.channels_last = channels_last

    def __call__(self, module: nn.Module, inputs: tuple, *output: Tensor) -> Tensor | tuple:
        """Return the output of ``module``, or what it takes where it has none yet."""
        x = output[0] if output else inputs[0]
        if self.channels_last and x.dim() == 4:
            x = self.tap(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            x = self.tap(x)
        return x if output else (x, *inputs[1:])


def timm_classifier(num_classes: int, *, name: str) -> nn.Module:
    """Build a classifier with random weights and name its features.

    ``stage1`` ... are the maps ``(B, C, H, W)`` at the strides 4, 8, ... of timm's
    ``feature_info``, as far as the network has them. ``last`` is the input of its
    ``global_pool`` and ``pooled`` the output, ``(B, C)`` or ``(B, C, 1, 1)``. A network that
    pools without such a module has the input of its classifier as ``pooled`` and no ``last``.

    Raises:
        ConfigError: timm is missing, or has no such name.
    """
    model: Any = timm_model(name, num_classes)
    channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    features: dict[str, str] = {}
    maps = nn.ModuleDict()

    def forward_to(feature: str, module: nn.Module, *, before: bool, channels_last: bool) -> None:
        maps[feature] = nn.Identity()
        hook = _Forwarded(maps[feature], channels_last=channels_last)
        register = module.register_forward_pre_hook if before else module.register_forward_hook
        register(hook)
        features[feature] = f"feature_maps.{feature}"

    for number, path in enumerate(_stages(model), start=1):
        if channels_last:
            stage = model.get_submodule(path)
            forward_to(f"stage{number}", stage, before=False, channels_last=True)
        else:
            features[f"stage{number}"] = path
    path, pool = _pool(model)
    if pool is not None:
        forward_to("last", pool, before=True, channels_last=channels_last)
        features["pooled"] = path
    elif isinstance(classifier := _classifier(model), nn.Linear):
        forward_to("pooled", classifier, before=True, channels_last=False)
    model.feature_maps = maps
    # Not `features`: a VGG has a submodule of that name.
    model.features_by_name = features
    return model


def _stages(model: nn.Module) -> list[str]:
    """Return the paths of the stages, the finest first; none where the strides do not grow."""
    found = getattr(model, "feature_info", None)
    if not isinstance(found, list):
        return []
    strides = [info["reduction"] for info in found]
    if len(found) < 2 or any(a >= b for a, b in pairwise(strides)):
        return []
    modules = dict(model.named_modules())
    paths = [info.get("module") for info in found if info["reduction"] >= _FINEST]
    return paths if all(path in modules for path in paths) else []


def _pool(model: nn.Module) -> tuple[str, nn.Module | None]:
    """Return the path of the global pooling and the module; None where it has none."""
    for path in ("global_pool", "head.global_pool"):
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue
        if not isinstance(module, nn.Identity):
            return path, module
    return "", None


def _classifier(model: nn.Module) -> object:
    get = getattr(model, "get_classifier", None)
    return get() if get is not None else None
