"""Checks of the weights that a student starts from, or is evaluated with."""

import logging
from typing import Any

from torch import nn

from pcka.detection.config import ConfigError

_COUNTER = "num_batches_tracked"  # of batch norms; old files lack it, and nothing needs it

logger = logging.getLogger(__name__)


def check_start(incompatible: Any, student: nn.Module, path: str) -> None:
    """Log how much of the backbone a file filled.

    Args:
        incompatible: keys that did not match, as fvcore's checkpointer returns them.
        student: the model that was loaded.
        path: the path of the file.

    Raises:
        ConfigError: it filled nothing of the backbone.
    """
    entries = {
        key
        for key in student.state_dict()
        if key.startswith("backbone.") and not key.endswith(_COUNTER)
    }
    filled = entries - _unfilled(incompatible).keys()
    logger.info("%d of %d entries of the backbone from %s", len(filled), len(entries), path)
    if entries and not filled:
        raise ConfigError(
            f"MODEL.WEIGHTS {path} fills none of the {len(entries)} entries of the student's "
            f"backbone, such as {min(entries)}: it is of another network, or names them "
            "differently (tools/import_weights.py converts torchvision, timm and mmdetection)"
        )


def check_complete(incompatible: Any, path: str) -> None:
    """Raise ConfigError unless the file filled every entry of a model that is evaluated."""
    unfilled = _unfilled(incompatible)
    if not unfilled:
        return
    key = next((key for key, reason in unfilled.items() if reason), next(iter(unfilled)))
    shapes = f" ({unfilled[key]})" if unfilled[key] else ""
    predicts = any(part in key for part in ("cls_score", "bbox_pred", "predictor"))
    hint = (
        "it knows another number of classes than the config"
        if shapes and predicts
        else "it is of another network than the config's"
    )
    raise ConfigError(
        f"--eval-only would measure random weights: {path} leaves {len(unfilled)} entries of the "
        f"student unfilled, such as {key}{shapes}: {hint}"
    )


def _unfilled(incompatible: Any) -> dict[str, str]:
    """Return the entries that a file did not fill, with both shapes where these differ."""
    missing = {k: "" for k in incompatible.missing_keys if not k.endswith(_COUNTER)}
    return missing | {
        key: f"{tuple(found)} in the file, {tuple(wanted)} in the model"
        for key, found, wanted in incompatible.incorrect_shapes
    }
