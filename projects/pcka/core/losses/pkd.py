"""PKD: Pearson's correlation of each channel with the teacher's (Cao et al. 2022)."""

from torch import Tensor

from .base import DistillLoss, check_maps, in_full_precision
from .measures import pearson


@in_full_precision
def pkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``mean_c (1 - r_c)``, with r_c the correlation of channel c over batch and places.

    It equals half the mean squared error between the maps once each channel is brought to zero
    mean and unit variance over ``(B, H, W)`` (Cao et al. 2022, arXiv 2207.02039).

    Args:
        student, teacher: maps ``(B, C, H, W)``.

    Returns:
        a scalar in [0, 2]. A channel that is constant on one side has r = 0 and no gradient.

    Raises:
        ValueError: shapes that differ.
    """
    check_maps("PKD", student, teacher, equal_width=True)
    return 1 - pearson(student, teacher, (0, 2, 3)).mean()


class PKD(DistillLoss):
    """The module of :func:`pkd_loss`."""

    inputs = "maps"
    needs_equal_width = True
    similarity = "pearson"

    def __init__(self):
        super().__init__()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar in [0, 2] of ``(B, C, H, W)``, ``(B, C, H, W)``."""
        return pkd_loss(student, teacher)
