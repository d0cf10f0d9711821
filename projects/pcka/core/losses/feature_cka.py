"""FCKA: CKA between the images of a batch, by their flattened features (arXiv 2401.11824)."""

from torch import Tensor

from pcka.core.cka import cka
from pcka.core.collectives import gather_samples
from pcka.core.patches import check_estimator

from .base import DistillLoss, check_samples


def feature_cka(
    student: Tensor,
    teacher: Tensor,
    *,
    center: bool = True,
    debiased: bool = False,
    gather: bool = False,
) -> Tensor:
    """Return CKA over the samples of a batch.

    Args:
        student: ``(B, ...)``, one image per row; all other axes are flattened.
        teacher: ``(B, ...)``; its other axes may differ.
        center, debiased: see :func:`pcka.core.cka`.
        gather: use the images of all processes; see :mod:`pcka.core.collectives`.

    Returns:
        a scalar in [0, 1]. Centred, two images always give 1.

    Raises:
        ValueError: batches that differ, or too few images.
    """
    check_samples("feature_cka", student, teacher)
    student, teacher = student.flatten(1), teacher.flatten(1)
    if gather:
        student, teacher = gather_samples(student), gather_samples(teacher)
    return cka(student, teacher, center=center, debiased=debiased)


class FeatureCKA(DistillLoss):
    """The loss ``1 -`` :func:`feature_cka`; the arguments are the same."""

    inputs = "samples"
    similarity = "cka"

    def __init__(self, *, center: bool = True, debiased: bool = False, gather: bool = False):
        check_estimator(center, debiased, gather)
        super().__init__(center=center, debiased=debiased, gather=gather)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar of ``(B, ...)``, ``(B, ...)``."""
        return 1 - feature_cka(student, teacher, **self.options)
