"""ITRD: correlation of features and Renyi's mutual information of samples (Miles et al. 2022)."""

import math

import torch
from torch import Tensor

from .base import DistillLoss, check_positive, check_samples, check_weights, in_full_precision
from .measures import in_safe_range, pearson, unit


@in_full_precision
def itrd_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    correlation: float = 2.0,
    mutual: float = 1.0,
    alpha: float = 1.01,
) -> Tensor:
    """``correlation * L_corr + mutual * L_mi`` of Miles et al. 2022, arXiv 2112.00459, section 3.

    ``L_corr = log2 sum_i |1 - c_i|^(2 alpha) - k`` with the correlation c_i of feature i over the
    batch, times ``(B - 1) / B``, which keeps the logarithm finite. The constant k makes it 0 where
    all features correlate fully. ``L_mi = |G|^2 - |G * H|^2``: Frobenius norms of the Gram matrices
    G and H of the student's and the teacher's samples of length 1, and of their entrywise product,
    each divided by its trace. Both are as in the released code, distiller_zoo/IT.py of
    github.com/roymiles/ITRD. L_mi is no distance: it has a gradient at a perfect match, too.

    Args:
        student, teacher: ``(B, ...)``, of equal width once flattened.
        correlation, mutual: weights of both parts; the defaults are the published ones.
        alpha: Renyi's order in L_corr.

    Returns:
        a scalar of any sign.

    Raises:
        ValueError: other shapes, or fewer than two samples.
    """
    check_samples("ITRD", student, teacher)
    x, y = student.flatten(1), teacher.flatten(1)
    if x.shape != y.shape:
        raise ValueError(
            f"ITRD: student {tuple(x.shape)} and teacher {tuple(y.shape)} differ in width: adapt "
            "the student (linear)"
        )
    samples, width = x.shape
    if samples < 2:
        raise ValueError("ITRD relates the samples of a batch: two or more")
    least = math.log2(width) - 2 * alpha * math.log2(samples)
    c = pearson(x, y, 0) * ((samples - 1) / samples)
    l_corr = (1 - c).abs().pow(2 * alpha).sum().log2() - least
    x, y = (unit(in_safe_range(side), 1) for side in (x, y))
    g = x @ x.mT
    joint = g * (y @ y.mT)
    l_mi = _share(g) - _share(joint)
    return correlation * l_corr + mutual * l_mi


def _share(g: Tensor) -> Tensor:
    """Return ``|G / tr G|^2``; 0 where the trace is 0."""
    trace = g.diagonal().sum()
    return (g / trace.masked_fill(trace == 0, torch.inf)).square().sum()


class ITRD(DistillLoss):
    """:func:`itrd_loss` as a module; the arguments are the same. Its size is not of order 1."""

    inputs = "samples"
    needs_equal_width = True

    def __init__(self, *, correlation: float = 2.0, mutual: float = 1.0, alpha: float = 1.01):
        check_weights(correlation=correlation, mutual=mutual)
        check_positive(alpha=alpha)
        super().__init__(correlation=correlation, mutual=mutual, alpha=alpha)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``(B, ...)``, ``(B, ...)`` -> scalar."""
        return itrd_loss(student, teacher, **self.options)
