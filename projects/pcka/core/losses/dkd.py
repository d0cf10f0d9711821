"""DKD: KD in two parts, the target class against the rest and the rest among itself."""

import torch
from torch import Tensor

from .base import DistillLoss, check_logits, check_positive, check_weights, in_full_precision
from .measures import softened_kl


@in_full_precision
def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Return T^2 times ``alpha TCKD + beta NCKD``, mean over the samples (Zhao et al. 2022, eq. 7).

    TCKD is the KL between the two-way distributions (target class, all others), NCKD the KL between
    the distributions over the other classes alone. Both are formed from logits, so that no
    logarithm is taken of a probability that rounds to 0 or 1.

    Args:
        student, teacher: logits ``(B, P)`` over P >= 2 classes.
        target: ``(B,)``, the index of each sample's class, int64.
        alpha, beta: weights of the two; the paper's beta depends on the pair. Its runs raise the
            weight of the whole linearly over the first 20 epochs.
        temperature: T.

    Returns:
        a scalar, not negative; 0 where both give the same probabilities.

    Raises:
        ValueError: shapes that do not fit, or a target that is not one index per sample.
    """
    check_logits("DKD", student, teacher)
    batch, classes = student.shape
    if classes < 2:
        raise ValueError(f"DKD needs two classes or more, got logits {tuple(student.shape)}")
    if target.shape != (batch,) or target.dtype != torch.int64:
        raise ValueError(
            f"DKD needs one class index (int64) for each of {batch} samples, target is "
            f"{tuple(target.shape)}, {target.dtype}"
        )
    sides = [_split(logits, target[:, None], temperature) for logits in (student, teacher)]
    target_part, others_part = (
        softened_kl(s, t, temperature).mean() for s, t in zip(*sides, strict=True)
    )
    return alpha * target_part + beta * others_part


class DKD(DistillLoss):
    """The module of :func:`dkd_loss`; the arguments are the same."""

    inputs = "logits"
    needs_equal_width = True
    needs_target = True

    def __init__(self, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0):
        check_weights(alpha=alpha, beta=beta)
        check_positive(temperature=temperature)
        super().__init__(alpha=alpha, beta=beta, temperature=temperature)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Return a scalar of ``(B, P)``, ``(B, P)``, ``(B,)``."""
        return dkd_loss(student, teacher, target, **self.options)


def _split(logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return logits ``(B, 2)`` of (target, all others), and ``(B, P - 1)`` of the others."""
    column = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, column + (column >= target))
    rest = temperature * (others / temperature).logsumexp(1, keepdim=True)
    return torch.cat([logits.gather(1, target), rest], 1), others
