"""RKD: distances and angles between the samples of a batch (Park et al. 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import DistillLoss, check_samples, check_weights, in_full_precision
from .measures import unit


@in_full_precision
def rkd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """``a mean_ij h(d_ij) + b mean_ijk h(cos_ijk)``, h the smooth L1 between student and teacher.

    d_ij is the distance of samples i and j over the mean distance in the batch, cos_ijk the cosine
    of the angle at i in the triangle of samples i, j and k (Park et al. 2019, arXiv 1904.05068,
    section 3.2). The means run over all B^2 pairs and B^3 triples, as in the released code. Takes
    B^2 D numbers of memory for features of D.

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
    # (B, B, D): from sample i to sample j.
    edges = [rows - rows[:, None] for rows in (student.flatten(1), teacher.flatten(1))]
    loss = student.new_zeros(())
    if distance_weight:
        loss = loss + distance_weight * F.smooth_l1_loss(*map(_relative_lengths, edges))
    if angle_weight:
        directions = [unit(edge, -1) for edge in edges]
        loss = loss + angle_weight * F.smooth_l1_loss(*(d @ d.mT for d in directions))
    return loss


class RKD(DistillLoss):
    """:func:`rkd_loss` as a module; the arguments are the same."""

    inputs = "samples"

    def __init__(self, *, distance_weight: float = 25.0, angle_weight: float = 50.0):
        check_weights(distance_weight=distance_weight, angle_weight=angle_weight)
        super().__init__(distance_weight=distance_weight, angle_weight=angle_weight)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``(B, ...)``, ``(B, ...)`` -> scalar."""
        return rkd_loss(student, teacher, **self.options)


def _relative_lengths(edges: Tensor) -> Tensor:
    """``(B, B, D)`` -> ``(B, B)``, the mean of those that are not 0 brought to 1."""
    lengths = torch.linalg.vector_norm(edges, dim=-1)
    total = lengths.sum()
    return lengths * (lengths > 0).sum() / total.masked_fill(total == 0, torch.inf)
