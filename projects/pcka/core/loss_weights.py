"""The weight of each distillation loss in a step: its share of the total, and its gradient.

Both functions take the losses of one step by name: ``loss_<key>`` for every key of
``DistillTerms.pairings``. All others are the network's own.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .gradients import norm, scaled_gradients
from .pairing import Pairing


def loss_shares(pairings: Mapping[str, Pairing], losses: Mapping[str, float]) -> dict[str, float]:
    """Return the share of each distillation loss in the total: ``{"share/pcka_p2": 0.2}``.

    All losses include their weights. If the total is 0, the shares are 0. A loss whose weight is a
    ratio has no share, because its value adds nothing to the gradient.
    """
    ratios = [f"loss_{key}" for key, pair in pairings.items() if pair.ratio is not None]
    total = math.fsum(value for name, value in losses.items() if name not in ratios)
    return {
        f"share/{key}": losses[f"loss_{key}"] / total if total else 0.0
        for key, pair in pairings.items()
        if pair.ratio is None
    }


def gradient_ratios(
    pairings: Mapping[str, Pairing],
    losses: Mapping[str, Tensor],
    features: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return how large the gradient of each distillation loss is at the feature that it reads.

    The ratio is ``|d loss / d F| / |d own / d F|``, with L2 norms over all of F. F is the student's
    feature on this process, before any adapter, and ``own`` is the sum of the network's own losses.
    At 1, teacher and labels change the student's features equally. The graph is kept and nothing is
    accumulated, so a backward pass that follows gives the same gradients.

    Args:
        pairings: the pairings of the terms.
        losses: scalars, attached to the graph.
        features: the student's, ``(B, C, H, W)`` or ``(B, C)``, attached to the graph.

    Returns:
        0-dimensional tensors by ``gradient/<key>``. There is none for a feature that is frozen or
        that no loss of the network's own depends on, nor for a term that its schedule has turned
        off, nor for one whose weight is a ratio, see ``DistillTerms.balance_figures``. A ratio is
        not finite where a norm is not.
    """
    distilled = {f"loss_{key}" for key in pairings}
    own = [loss for name, loss in losses.items() if name not in distilled and loss.requires_grad]
    names = sorted({p.student for p in pairings.values() if features[p.student].requires_grad})
    if not own or not names:
        return {}
    with torch.autocast(own[0].device.type, enabled=False):
        total = sum(own[1:], own[0])
        asked = scaled_gradients(total, [features[n] for n in names], retain_graph=True)
        norms = {n: norm(g) for n, g in zip(names, asked, strict=True) if g is not None}
        ratios = {}
        for key, pair in pairings.items():
            loss = losses[f"loss_{key}"]
            if pair.student in norms and loss.requires_grad and pair.ratio is None:
                [pull] = scaled_gradients(loss, [features[pair.student]], retain_graph=True)
                if pull is not None:
                    ratios[f"gradient/{key}"] = norm(pull) / norms[pair.student]
        return ratios
