"""A look at the first batch: how hard each term pulls beside the cross-entropy."""

import logging
from copy import deepcopy

import torch

from .config import Config
from .data import Data
from .distiller import Distiller
from .processes import Process
from .update import autocast

logger = logging.getLogger("classification")

# A pull at a feature that is so many times the cross-entropy's leaves little of the task.
LOUD = 100.0


def warn_of_loud_terms(
    cfg: Config, distiller: Distiller, data: Data, process: Process
) -> dict[str, float]:
    """Warn of terms whose weight will drown the cross-entropy; the networks stay as they are.

    Returns:
        The ratio of gradients of every term and feature, as :func:`pcka.core.gradient_ratios`.
    """
    if distiller.distill is None or not cfg.ce_weight:
        return {}
    # The teacher is frozen, and not copied.
    copy = deepcopy(distiller, {id(distiller.teacher): distiller.teacher}).train()
    copy.measures_gradients = True
    images, labels = next(iter(data.train.epoch(0)))
    random = torch.get_rng_state()
    with autocast(cfg.train.amp, process.device):
        copy(images, labels)
    torch.set_rng_state(random)
    ratios = {key.removeprefix("gradient/"): value.item() for key, value in copy.gradients.items()}
    for key, ratio in ratios.items():
        if ratio > LOUD:
            logger.warning(
                "the term %s pulls %.0f times as hard at its feature as the cross-entropy, which "
                "may diverge: lower its weight, or set it to {ratio: 1}",
                key,
                ratio,
            )
    return ratios
