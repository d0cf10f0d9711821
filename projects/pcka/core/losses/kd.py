"""KD: the teacher's softened probabilities (Hinton et al. 2015)."""

from torch import Tensor

from .base import DistillLoss, check_logits, check_positive, in_full_precision
from .measures import softened_kl


@in_full_precision
def kd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Return ``T^2 KL(softmax(t / T) || softmax(s / T))``, mean over the samples.

    Hinton et al. 2015, arXiv 1503.02531, section 2.

    Args:
        student, teacher: logits ``(B, P)``.
        temperature: T.

    Returns:
        a scalar, not negative; 0 where both give the same probabilities.

    Raises:
        ValueError: shapes that differ.
    """
    check_logits("KD", student, teacher)
    return softened_kl(student, teacher, temperature).mean()


class KD(DistillLoss):
    """The module of :func:`kd_loss`; the arguments are the same."""

    inputs = "logits"
    needs_equal_width = True

    def __init__(self, *, temperature: float = 4.0):
        check_positive(temperature=temperature)
        super().__init__(temperature=temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar of ``(B, P)``, ``(B, P)``."""
        return kd_loss(student, teacher, **self.options)
