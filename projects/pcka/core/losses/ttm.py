"""TTM: the student matches the teacher's probabilities raised to a power (Zheng & Yang 2024)."""

import torch.nn.functional as F
from torch import Tensor

from .base import DistillLoss, check_logits, check_positive, in_full_precision


@in_full_precision
def ttm_loss(
    student: Tensor, teacher: Tensor, *, gamma: float = 0.1, weighted: bool = True
) -> Tensor:
    """``w KL(p^gamma / w || q)``, mean over the samples, with ``w = sum_j p_j^gamma`` or 1.

    p and q are the probabilities of teacher and student. KD with a temperature softens both; here
    the student has none, which adds the entropy of q to the loss as a regulariser. Zheng & Yang
    2024, arXiv 2402.11148: TTM without, WTTM with the weights w, which are larger where the teacher
    is unsure.

    Args:
        student, teacher: logits ``(B, P)``.
        gamma: the power, ``1 / T``.
        weighted: whether w weighs the samples.

    Returns:
        a scalar, not negative; 0 where q is the power of p.

    Raises:
        ValueError: shapes that differ.
    """
    check_logits("TTM", student, teacher)
    log_q, log_p = F.log_softmax(student, -1), F.log_softmax(gamma * teacher, -1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    if weighted:
        divergence = (gamma * F.log_softmax(teacher, -1)).exp().sum(-1) * divergence
    return divergence.mean()


class TTM(DistillLoss):
    """:func:`ttm_loss` as a module; the arguments are the same. Its size is that of w, up to P."""

    inputs = "logits"
    needs_equal_width = True

    def __init__(self, *, gamma: float = 0.1, weighted: bool = True):
        check_positive(gamma=gamma)
        if not isinstance(weighted, bool):
            raise ValueError(f"weighted is true or false, got {weighted!r}")
        super().__init__(gamma=gamma, weighted=weighted)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``(B, P)``, ``(B, P)`` -> scalar."""
        return ttm_loss(student, teacher, **self.options)
