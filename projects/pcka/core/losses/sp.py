"""SP: the similarities between the samples of a batch (Tung and Mori 2019)."""

from torch import Tensor

from .base import DistillLoss, check_samples, in_full_precision
from .measures import in_safe_range, unit


@in_full_precision
def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``|G_S - G_T|_F^2 / B^2``, with G the Gram matrix of the batch, each row of length 1.

    Tung and Mori 2019, arXiv 1907.09682. The rows have length 1, so the loss is of order 1/B and
    needs a large weight: 3000 is usual at B = 64.

    Args:
        student, teacher: ``(B, ...)``, one sample per row; the other axes may differ.

    Returns:
        a scalar in [0, 4 / B], 0 where the rows of the Gram matrices are proportional. One sample
        always gives 0.

    Raises:
        ValueError: batches that differ.
    """
    check_samples("SP", student, teacher)
    sides = (in_safe_range(side.flatten(1)) for side in (student, teacher))
    grams = [unit(rows @ rows.mT, 1) for rows in sides]
    return (grams[0] - grams[1]).square().mean()


class SP(DistillLoss):
    """The module of :func:`sp_loss`."""

    inputs = "samples"

    def __init__(self):
        super().__init__()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar of ``(B, ...)``, ``(B, ...)``."""
        return sp_loss(student, teacher)
