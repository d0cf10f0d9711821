"""Settings that weights expect: channel order, mean, std, and the place of the stride."""

import re

from detectron2.config import CfgNode

from pcka.detection.config import ConfigError
from pcka.detection.config_files import lookup

from .names import MMDETECTION

_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

STYLES = {
    "pytorch": {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": _MEAN,
        "MODEL.PIXEL_STD": _STD,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    },
    "caffe": {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_MEAN": _MEAN[::-1],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
    },
}


def input_settings(source: str, meta: dict, style: str | None = None) -> dict:
    """Return the keys and values of a detectron2 config that go with the weights.

    An mmdetection file often holds its config as text. What that says has priority over ``style``,
    which is ``pytorch`` by default. torchvision and timm are in ``pytorch`` style.

    Raises:
        ConfigError: a style that the file contradicts.
    """
    text = _config_text(meta) if source == MMDETECTION else ""
    told = _only(re.findall(r"\bstyle='(\w+)'", text))
    told = told if source == MMDETECTION else "pytorch"
    if style and told and style != told:
        raise ConfigError(f"--style {style}, but these weights are in {told} style: leave it out")
    settings = dict(STYLES[told if told in STYLES else style or "pytorch"])
    for key, name in (("MODEL.PIXEL_MEAN", "mean"), ("MODEL.PIXEL_STD", "std")):
        numbers = _only(re.findall(rf"\b{name}=\[([\d.,\s]+)\]", text))
        if numbers:
            settings[key] = [float(number) for number in numbers.split(",") if number.strip()]
    to_rgb = _only(re.findall(r"\b(?:bgr_)?to_rgb=(True|False)", text))
    if to_rgb:
        settings["INPUT.FORMAT"] = "RGB" if to_rgb == "True" else "BGR"
    return settings


def settings_to_change(settings: dict, cfg: CfgNode) -> dict:
    """Return those of ``settings`` for which ``cfg`` has other values."""
    return {
        key: value
        for key, value in settings.items()
        if value != (list(found) if isinstance(found := lookup(cfg, key), list | tuple) else found)
    }


def is_version_1(meta: dict) -> bool:
    """Return whether mmdetection 1.x wrote the file, whose heads are of another kind."""
    return str(meta.get("mmdet_version", "")).startswith(("0.", "1."))


def relu_before_p7(meta: dict) -> bool:
    """Return whether the file's config puts a ReLU before P7; mmdetection's default has none."""
    return "relu_before_extra_convs=True" in _config_text(meta)


def _config_text(meta: dict) -> str:
    # mmdetection 2.x calls it config, 3.x cfg.
    return str(meta.get("config") or meta.get("cfg") or "")


def _only(found: list[str]) -> str:
    """Return the one value that all places agree on, or ""."""
    return found[0] if len({re.sub(r"\s", "", value) for value in found}) == 1 else ""
