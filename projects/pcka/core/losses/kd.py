"""KD: the teacher's softened probabilities (Hinton et al. 2015)."""

from torch import Tensor

from .base import DistillLoss, check_logits, check_positive, in_full_precision
from .measures import softened_kl, standardized


@in_full_precision
def kd_loss(
    student: Tensor, teacher: Tensor, *, temperature: float = 4.0, standardize: bool = False
) -> Tensor:
    """``T^2 KL(softmax(t / T) || softmax(s / T))``, mean over the samples.

    Hinton et al. 2015, arXiv 1503.02531, section 2.

    Args:
        student, teacher: logits ``(B, P)``.
        temperature: T.
        standardize: bring the logits of each sample to mean 0 and variance 1 first (Sun et al.
            2024, arXiv 2403.01427, with T = 2; the released code divides by P - 1).

    Returns:
        a scalar, not negative; 0 where both give the same probabilities.

    Raises:
        ValueError: shapes that differ.
    """
    check_logits("KD", student, teacher)
    if standardize:
        student, teacher = standardized(student), standardized(teacher)
    return softened_kl(student, teacher, temperature).mean()


class KD(DistillLoss):
    """:func:`kd_loss` as a module; the arguments are the same."""

    inputs = "logits"
    needs_equal_width = True

    def __init__(self, *, temperature: float = 4.0, standardize: bool = False):
        check_positive(temperature=temperature)
        if not isinstance(standardize, bool):
            raise ValueError(f"standardize is true or false, got {standardize!r}")
        super().__init__(temperature=temperature, standardize=standardize)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``(B, P)``, ``(B, P)`` -> scalar."""
        return kd_loss(student, teacher, **self.options)
