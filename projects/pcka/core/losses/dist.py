"""DIST: correlation instead of divergence, over classes and over samples (Huang et al. 2022)."""

from torch import Tensor

from .base import DistillLoss, check_logits, check_positive, check_weights, in_full_precision
from .measures import pearson, shifted_softmax


@in_full_precision
def dist_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """Return ``T^2 [beta mean_i (1 - r_i) + gamma mean_j (1 - r_j)]``.

    r_i correlates the probabilities ``softmax(logits / T)`` of sample i over the classes (the
    *inter-class* relation of Huang et al. 2022, arXiv 2205.10536), r_j those of class j over the
    samples of the batch (*intra-class*). T^2 comes from the released code. That code also adds 1e-8
    to the denominators, which fades out classes of tiny probability; here they count in full.

    Args:
        student, teacher: logits ``(B, P)``.
        beta, gamma: weights of the two relations.
        temperature: T.

    Returns:
        a scalar in [0, 2 T^2 (beta + gamma)], 0 where both give the same probabilities. With a
        single sample every r_j is 0.

    Raises:
        ValueError: shapes that differ.
    """
    check_logits("DIST", student, teacher)
    student, teacher = (shifted_softmax(side / temperature) for side in (student, teacher))
    inter, intra = (1 - pearson(student, teacher, dim).mean() for dim in (1, 0))
    return temperature**2 * (beta * inter + gamma * intra)


class DIST(DistillLoss):
    """The module of :func:`dist_loss`; the arguments are the same."""

    inputs = "logits"
    needs_equal_width = True

    def __init__(self, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0):
        check_weights(beta=beta, gamma=gamma)
        check_positive(temperature=temperature)
        super().__init__(beta=beta, gamma=gamma, temperature=temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar of ``(B, P)``, ``(B, P)``."""
        return dist_loss(student, teacher, **self.options)
