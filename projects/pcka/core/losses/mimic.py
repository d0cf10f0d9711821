"""Mimic: the teacher's map itself, cell by cell (FitNet's hint loss)."""

import torch.nn.functional as F
from torch import Tensor

from .base import DistillLoss, check_maps, in_full_precision


@in_full_precision
def mimic_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``mean (S - T)^2``.

    The hint loss of FitNet (Romero et al. 2015, arXiv 1412.6550, eq. 3; the adapter is its
    regressor), and what DIST (Huang et al. 2022) calls mimic on detectors. Its size is that of the
    squared features.

    Args:
        student, teacher: maps ``(B, C, H, W)``.

    Returns:
        a scalar, 0 where the maps are equal.

    Raises:
        ValueError: shapes that differ.
    """
    check_maps("Mimic", student, teacher, equal_width=True)
    return F.mse_loss(student, teacher)


class Mimic(DistillLoss):
    """The module of :func:`mimic_loss`."""

    inputs = "maps"
    needs_equal_width = True

    def __init__(self):
        super().__init__()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar of ``(B, C, H, W)``, ``(B, C, H, W)``."""
        return mimic_loss(student, teacher)
