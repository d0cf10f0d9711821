"""Gram matrices as CKA sees them, side by side on one scale of colours."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from torch import Tensor

from .plotting import GREY, INK


def normalized_gram(features: Tensor, *, center: bool) -> Tensor:
    """Return ``K / |K|``; CKA is the product of two such: ``1 - CKA = 1/2 |K/|K| - L/|L||^2``.

    Args:
        features: ``(..., N, D)``.
        center: subtract the mean over the N samples first.

    Returns:
        ``(..., N, N)`` float64; 0 where there is no energy.
    """
    x = features.detach().double()
    if center:
        x = x - x.mean(-2, keepdim=True)
    gram = x @ x.mT
    norm = torch.linalg.matrix_norm(gram, keepdim=True)
    return gram / torch.where(norm == 0, 1, norm)


def draw_grams(places: Sequence[Axes], grams: Sequence[np.ndarray], bar: Axes) -> None:
    """Draw each ``(N, N)`` into its axes, and their common scale into ``bar``.

    The scale is that of the entries off the diagonal. A few large ones, and the diagonal, which
    holds the lengths of the samples, go beyond it. If entries have both signs, white is 0.
    """
    others = np.concatenate([np.abs(gram[~np.eye(len(gram), dtype=bool)]) for gram in grams])
    limit = float(np.percentile(others, 99.5)) or 1.0
    signed = any((gram < 0).any() for gram in grams)
    colors, scale = "cividis", Normalize(0, limit)
    if signed:
        colors, scale = "PuOr", Normalize(-limit, limit)
    for axes, gram in zip(places, grams, strict=True):
        image = axes.imshow(gram, cmap=colors, norm=scale, interpolation="nearest")
        axes.tick_params(labelsize=7.5, colors=GREY, length=2)
        axes.spines[:].set_color("#BBBBBB")
    extend = "both" if signed else "max"
    bar.figure.colorbar(image, cax=bar, extend=extend).outline.set_visible(False)
    bar.tick_params(labelsize=7.5, colors=GREY, length=2)
    bar.set_title("K / |K|", size=8.5, color=INK)


def label(axes: Axes, name: str, value: float | None) -> None:
    """Write the network's name above its matrix, and below it the CKA to the teacher, if any."""
    axes.set_title(name, size=9.5, color=INK, loc="left", pad=4)
    if value is not None:
        axes.set_xlabel(f"CKA to the teacher {value:.3f}", size=9, color=INK)
