"""AT: where the teacher's features are large (Zagoruyko and Komodakis 2017)."""

import torch.nn.functional as F
from torch import Tensor

from .base import DistillLoss, check_maps, in_full_precision
from .measures import in_safe_range, unit


@in_full_precision
def at_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``mean (Q_S / |Q_S| - Q_T / |Q_T|)^2``, with Q the mean square over the channels.

    Activation-based attention transfer with p = 2 (Zagoruyko and Komodakis 2017, arXiv 1612.03928,
    eq. 2). The mean is over the H W places, so the loss is of order 1 / (H W) and needs a large
    weight: 1000 is usual.

    Args:
        student: map ``(B, C, H, W)``.
        teacher: map ``(B, C', H, W)``; C' may differ.

    Returns:
        a scalar in [0, 2 / (H W)], 0 where the attention maps are proportional.

    Raises:
        ValueError: maps that differ in batch or size.
    """
    check_maps("AT", student, teacher, equal_width=False)
    x, y = (unit(in_safe_range(side).square().mean(1).flatten(1), 1) for side in (student, teacher))
    return F.mse_loss(x, y)


class AT(DistillLoss):
    """The module of :func:`at_loss`."""

    inputs = "maps"

    def __init__(self):
        super().__init__()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar of ``(B, C, H, W)``, ``(B, C', H, W)``."""
        return at_loss(student, teacher)
