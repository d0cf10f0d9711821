"""RCKA: CKA of features and of logits, for classifiers (arXiv 2401.11824)."""

from collections.abc import Sequence

from torch import Tensor, nn

from .feature_cka import feature_cka
from .logit_cka import logit_cka


def rcka(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    feature_weight: float = 1.0,
    intra_weight: float = 1.0,
    inter_weight: float = 1.0,
    temperature: float | None = None,
    normalize_rows: bool = False,
    center: bool = True,
    debiased: bool = False,
    gather: bool = False,
) -> Tensor:
    """Return ``a (1 - FCKA) + b (1 - intra-LCKA) + c (1 - inter-LCKA)``.

    The paper's RCKA adds the cross-entropy, which here is left to the caller.

    Args:
        student_features, teacher_features: stages ``(B, ...)``, paired in order; FCKA is their
            mean.
        student_logits, teacher_logits: ``(B, P)``.
        feature_weight, intra_weight, inter_weight: a, b, c; a term of weight 0 is not computed.
        temperature, normalize_rows: see :func:`pcka.core.logit_cka`.
        center, debiased: see :func:`pcka.core.cka`.
        gather: use the batch of all processes; see :mod:`pcka.core.collectives`.

    Returns:
        a scalar, 0 where all relations agree.
    """
    common = {"center": center, "debiased": debiased, "gather": gather}
    loss = student_logits.new_zeros(())
    if feature_weight:
        if not student_features or len(student_features) != len(teacher_features):
            raise ValueError(
                f"{len(student_features)} feature stages of the student for "
                f"{len(teacher_features)} of the teacher: give as many, at least one"
            )
        pairs = list(zip(student_features, teacher_features, strict=True))
        mean = sum(feature_cka(s, t, **common) for s, t in pairs) / len(pairs)
        loss = loss + feature_weight * (1 - mean)
    for relation, weight in (("intra", intra_weight), ("inter", inter_weight)):
        if weight:
            value = logit_cka(
                student_logits,
                teacher_logits,
                relation=relation,
                temperature=temperature,
                normalize_rows=normalize_rows,
                **common,
            )
            loss = loss + weight * (1 - value)
    return loss


class RCKA(nn.Module):
    """The module of :func:`rcka`; the arguments are the same."""

    def __init__(self, **options):
        super().__init__()
        known = rcka.__kwdefaults__ or {}
        if unknown := options.keys() - known.keys():
            names = ", ".join(sorted(unknown))
            raise ValueError(f"unknown argument {names}: one of {', '.join(known)}")
        self.options = options

    def forward(
        self,
        student_features: Sequence[Tensor],
        teacher_features: Sequence[Tensor],
        student_logits: Tensor,
        teacher_logits: Tensor,
    ) -> Tensor:
        """Return a scalar of stages ``(B, ...)`` and logits ``(B, P)`` of both sides."""
        return rcka(
            student_features, teacher_features, student_logits, teacher_logits, **self.options
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
