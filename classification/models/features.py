"""Intermediate maps of a model by name, for :class:`pcka.core.Taps`."""

from collections.abc import Sequence

from torch import nn


def name_features(*stages: str, last: str, pooled: str = "pool") -> dict[str, str]:
    """Paths of submodules by the common names ``stage1`` ... ``stageK``, ``last``, ``pooled``."""
    numbered = {f"stage{number}": path for number, path in enumerate(stages, start=1)}
    return {**numbered, "last": last, "pooled": pooled}


def feature_modules(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The submodules whose outputs are the named features.

    Every model of :func:`.create_model` names ``stage1`` ... ``stageK`` (the
    map ``(B, C, H, W)`` after each stage), ``last`` (the map that goes into the pooling) and
    ``pooled`` (``(B, C)`` or ``(B, C, 1, 1)``, what the classifier gets) in its ``features``. Any
    submodule can be named by its path as well, such as ``layer2.0.conv1``.

    Args:
        model: a model; one of the user's own needs no ``features``.
        names: the features wanted; None for all of ``features``.

    Raises:
        ValueError: neither a name of ``features`` nor a path of a submodule.
    """
    paths = getattr(model, "features", None)
    if not isinstance(paths, dict):  # a VGG of torchvision or timm has a submodule of that name
        paths = getattr(model, "features_by_name", {})
    modules = {}
    for name in paths if names is None else names:
        try:
            modules[name] = model.get_submodule(paths.get(name, name))
        except AttributeError as error:
            raise ValueError(
                f"{type(model).__name__} has no feature {name!r}: it has "
                f"{', '.join(paths) or 'no named features'}, and any path of a submodule such as "
                f"{_example(model)!r}"
            ) from error
    return modules


def _example(model: nn.Module) -> str:
    return next((path for path, _ in model.named_modules() if path.count(".") == 1), "layer1")
