"""Networks of timm by name: found with clear errors, and built without weights or network.

timm is optional (``pip install 'pcka[timm]'``) and imported by the first call alone.
"""

import warnings
from difflib import get_close_matches
from functools import cache
from types import ModuleType
from typing import Any

from packaging.version import Version
from torch import nn

from pcka.errors import ConfigError

# The modules of timm whose networks take other sizes by their argument `strict_img_size`.
_OF_WINDOWS = ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr")
_OLDEST = "1.0.31"  # as in setup.cfg
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@cache
def import_timm() -> ModuleType:
    """Return the module timm.

    Raises:
        ConfigError: it is not installed, or too old.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import timm
            import timm.layers
    except ImportError as error:
        raise ConfigError(
            f"networks of timm need the package timm, which cannot be imported ({error}): "
            "pip install 'pcka[timm]', or pip install timm"
        ) from error
    if Version(timm.__version__) < Version(_OLDEST):
        raise ConfigError(f"timm {timm.__version__} is too old: pip install 'timm>={_OLDEST}'")
    return timm


def check_timm_name(name: str) -> None:
    """Check that timm has a network of this name; a tag of weights may follow, ``NAME.TAG``.

    Raises:
        ConfigError: timm is missing, or has no such name; the nearest names are listed.
    """
    timm = import_timm()
    plain, _, tag = str(name).partition(".")
    known = timm.list_models()
    if plain not in known:
        wanted = plain.lower().replace("-", "_")
        near = [n for n in known if wanted and n.startswith(wanted)][:4]
        near += get_close_matches(wanted, known, n=4)
        listed = ", ".join(dict.fromkeys(near))
        raise ConfigError(
            f"timm has no network {name!r}"
            + (f", did you mean {listed}?" if listed else ": timm.list_models() lists its names")
        )
    if tag and not timm.models.is_model_pretrained(name):
        tags = [n.partition(".")[2] for n in timm.list_models(f"{plain}.*", pretrained=True)]
        near = get_close_matches(tag, tags, n=4) or tags[:4]
        raise ConfigError(
            f"timm has no weights {tag!r} of {plain}"
            + (f", did you mean {', '.join(f'{plain}.{n}' for n in near)}?" if near else "")
        )


def timm_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Build a network with random weights: ``(B, 3, H, W)`` -> logits ``(B, num_classes)``.

    Nothing is downloaded. Activations do not work in place, so that the output of any submodule
    can be read.

    Args:
        name: a name that :func:`check_timm_name` accepts.
        num_classes: 0 leaves the classifier out.
        options: further arguments of ``timm.create_model``.

    Raises:
        ConfigError: timm is missing or has no such name, or cannot build it.
    """
    check_timm_name(name)
    try:
        model = import_timm().create_model(
            name, pretrained=False, num_classes=num_classes, **options
        )
    except (RuntimeError, ValueError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"timm cannot build {name}: {reason}") from error
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def any_size(name: str) -> dict[str, Any]:
    """Return the options with which a network of windows (Swin) takes images of any size.

    Raises:
        ConfigError: timm is missing, or has no such name.
    """
    check_timm_name(name)
    builder = import_timm().models.model_entrypoint(name.partition(".")[0])
    windows = builder.__module__.rpartition(".")[2] in _OF_WINDOWS
    return {"strict_img_size": False} if windows else {}


def pixel_statistics(name: str) -> tuple[list[float], list[float]]:
    """Return mean and std of the RGB images, from 0 to 255, that the weights of a name expect."""
    found = import_timm().models.get_pretrained_cfg(name)
    mean = getattr(found, "mean", None) or _IMAGENET_MEAN
    std = getattr(found, "std", None) or _IMAGENET_STD
    return [round(255 * x, 3) for x in mean], [round(255 * x, 3) for x in std]
