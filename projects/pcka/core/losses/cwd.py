"""CWD: the places where each channel of the teacher is large (Shu et al. 2021)."""

from torch import Tensor

from .base import DistillLoss, check_maps, check_positive, in_full_precision
from .measures import softened_kl


@in_full_precision
def cwd_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return ``T^2/C sum_c KL(p_c || q_c)``, mean over the batch.

    p_c and q_c are the softmax of a channel over its places, at temperature T, of the teacher and
    the student (Shu et al. 2021, arXiv 2011.13256).

    Args:
        student, teacher: maps ``(B, C, H, W)``.
        temperature: T; the paper takes 4 for segmentation.

    Returns:
        a scalar, not negative; 0 where the maps differ by a constant per channel and image.

    Raises:
        ValueError: shapes that differ.
    """
    check_maps("CWD", student, teacher, equal_width=True)
    return softened_kl(student.flatten(2), teacher.flatten(2), temperature).mean()


class CWD(DistillLoss):
    """The module of :func:`cwd_loss`; the arguments are the same."""

    inputs = "maps"
    needs_equal_width = True

    def __init__(self, *, temperature: float = 1.0):
        check_positive(temperature=temperature)
        super().__init__(temperature=temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar of ``(B, C, H, W)``, ``(B, C, H, W)``."""
        return cwd_loss(student, teacher, **self.options)
