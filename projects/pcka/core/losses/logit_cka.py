"""LCKA: CKA between logits, over samples or over classes (arXiv 2401.11824)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcka.core.cka import cka
from pcka.core.collectives import gather_samples
from pcka.core.grams import working_dtype
from pcka.core.patches import check_choice, check_estimator

from .base import DistillLoss, check_positive

RELATIONS = ("intra", "inter")


def logit_cka(
    student: Tensor,
    teacher: Tensor,
    *,
    relation: str = "intra",
    temperature: float | None = None,
    normalize_rows: bool = False,
    center: bool = True,
    debiased: bool = False,
    gather: bool = False,
) -> Tensor:
    """Return CKA of two sets of logits.

    Args:
        student, teacher: ``(B, P)`` logits of B samples over P classes.
        relation: ``intra`` relates samples by their logits (a B x B Gram matrix), ``inter``
            classes by their logits over the batch (P x P). These are the names of the paper's
            figure; its classification code has them the other way round.
        temperature: relate the probabilities ``softmax(logits / temperature)``; None relates
            the logits.
        normalize_rows: divide each row of the Gram matrices by the length of its sample, as the
            released code does, so that samples of large logits do not decide alone.
        center, debiased: see :func:`pcka.core.cka`.
        gather: use the samples of all processes; see :mod:`pcka.core.collectives`.

    Returns:
        a scalar in [0, 1] (debiased, and with ``normalize_rows``: [-1, 1]).

    Raises:
        ValueError: shapes that do not fit, or arguments that do not go together.
    """
    check_choice("relation", relation, RELATIONS)
    _check_options(temperature, normalize_rows, debiased)
    if student.dim() != 2 or teacher.dim() != 2 or len(student) != len(teacher):
        raise ValueError(
            "logit_cka needs (B, P) logits of one batch, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if relation == "inter" and student.shape != teacher.shape:
        raise ValueError(
            "inter-LCKA needs the same classes on both sides, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if gather:
        student, teacher = gather_samples(student), gather_samples(teacher)
    if temperature is not None:
        dtype = working_dtype(student, teacher)
        student, teacher = ((t.to(dtype) / temperature).softmax(-1) for t in (student, teacher))
    if relation == "inter":
        student, teacher = student.mT, teacher.mT
    if normalize_rows:
        return _row_normalized_cka(student, teacher, center)
    return cka(student, teacher, center=center, debiased=debiased)


class LogitCKA(DistillLoss):
    """The loss ``1 -`` :func:`logit_cka`; the arguments are the same."""

    inputs = "logits"
    similarity = "cka"

    def __init__(
        self,
        *,
        relation: str = "intra",
        temperature: float | None = None,
        normalize_rows: bool = False,
        center: bool = True,
        debiased: bool = False,
        gather: bool = False,
    ):
        check_choice("relation", relation, RELATIONS)
        check_estimator(center, debiased, gather)
        _check_options(temperature, normalize_rows, debiased)
        self.needs_equal_width = relation == "inter"
        super().__init__(
            relation=relation,
            temperature=temperature,
            normalize_rows=normalize_rows,
            center=center,
            debiased=debiased,
            gather=gather,
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar of ``(B, P)``, ``(B, P)``."""
        return 1 - logit_cka(student, teacher, **self.options)


def _row_normalized_cka(x: Tensor, y: Tensor, center: bool) -> Tensor:
    """Return the cosine between K and L, each row divided by its sample's length: -> ().

    Plain autograd serves here, since this form is used for comparison alone.
    """
    with torch.autocast(x.device.type, enabled=False):
        grams = []
        for features in (x, y):
            features = features.to(working_dtype(x, y))
            # The cosine does not depend on the scale, so the scale needs no gradient.
            size = features.detach().abs().amax()
            features = features / torch.where(size == 0, torch.ones_like(size), size)
            if center:
                features = features - features.mean(-2, keepdim=True)
            gram = F.normalize(features, dim=-1) @ features.mT
            grams.append(F.normalize(gram.flatten(), dim=0).view_as(gram))
        return (grams[0] * grams[1]).sum(-1).sum()


def _check_options(temperature: float | None, normalize_rows: bool, debiased: bool) -> None:
    if temperature is not None:
        check_positive(temperature=temperature)
    if normalize_rows and debiased:
        raise ValueError("normalize_rows has no debiased form: set one of the two")
