"""RKD: distances and angles between the samples of a batch (Park et al. 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import DistillLoss, check_samples, check_weights, in_full_precision
from .measures import in_safe_range


@in_full_precision
def rkd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """Return ``a mean_ij h(d_ij) + b mean_ijk h(cos_ijk)``, h the smooth L1 of both networks.

    d_ij is the distance of samples i and j over the mean distance in the batch, cos_ijk the cosine
    of the angle at i in the triangle of samples i, j and k (Park et al. 2019, arXiv 1904.05068,
    section 3.2), which the distances determine. The means run over all B^2 pairs and B^3 triples,
    as in the released code.

    Args:
        student, teacher: ``(B, ...)``, one sample per row; the other axes may differ.
        distance_weight, angle_weight: a and b; a part of weight 0 is not computed.

    Returns:
        a scalar, 0 where the samples form similar figures. Batches of one or two always give 0;
        samples that coincide have distance 0, no direction and no gradient.

    Raises:
        ValueError: batches that differ.
    """
    check_samples("RKD", student, teacher)
    # A matrix product would lose all digits of the distance between near samples.
    distances = [
        torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        for rows in (in_safe_range(side.flatten(1)) for side in (student, teacher))
    ]
    loss = student.new_zeros(())
    if distance_weight:
        loss = loss + distance_weight * _smooth_l1(*map(_relative, distances))
    if angle_weight:
        loss = loss + angle_weight * _smooth_l1(*map(_cosines, distances))
    return loss


class RKD(DistillLoss):
    """The module of :func:`rkd_loss`; the arguments are the same."""

    inputs = "samples"

    def __init__(self, *, distance_weight: float = 25.0, angle_weight: float = 50.0):
        check_weights(distance_weight=distance_weight, angle_weight=angle_weight)
        super().__init__(distance_weight=distance_weight, angle_weight=angle_weight)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar of ``(B, ...)``, ``(B, ...)``."""
        return rkd_loss(student, teacher, **self.options)


def _smooth_l1(x: Tensor, y: Tensor) -> Tensor:
    return F.smooth_l1_loss(x, y)


def _relative(distances: Tensor) -> Tensor:
    """Divide distances ``(B, B)`` by the mean of those that are not 0."""
    total = distances.sum()
    return distances * (distances > 0).sum() / total.masked_fill(total == 0, torch.inf)


def _cosines(distances: Tensor) -> Tensor:
    """Return cosines ``(B, B, B)`` of distances ``(B, B)``; [i, j, k] has its angle at i."""
    square = distances.square()
    products = 2 * distances[:, :, None] * distances[:, None, :]
    sides = square[:, :, None] + square[:, None, :] - square
    return sides / products.masked_fill(products == 0, torch.inf)
