"""Which feature of the student meets which of the teacher, and what both have to be."""

from collections.abc import Mapping
from dataclasses import dataclass

from .adapters import ADAPTERS_OF
from .features import FeatureShape
from .losses import DistillLoss
from .schedules import Schedule
from .term_spec import TermSpec


@dataclass(frozen=True)
class Pairing:
    """One loss of one term: the student's feature, the teacher's, the weight and its schedule.

    The strides are None for vectors. A pairing with a ratio has the weight 1 in the log.
    """

    student: str
    teacher: str
    weight: float
    schedule: Schedule
    stride: int | None
    teacher_stride: int | None
    ratio: float | None = None

    def weight_at(self, progress: float | None) -> float:
        """Return the weight at ``progress`` of the training, in [0, 1]; None: the full weight."""
        return self.weight if progress is None else self.weight * self.schedule.factor(progress)


def partner_of(
    spec: TermSpec, index: int, stride: int | None, teacher: Mapping[str, FeatureShape]
) -> str:
    """Return the teacher's feature for the ``index``-th of a term: by name, else by stride."""
    wanted = spec.teacher_features[index] if spec.teacher_features else spec.features[index]
    if wanted in teacher:
        return wanted
    missing = f"the teacher has no feature {wanted!r}"
    if stride is not None:
        equal_stride = [name for name, shape in teacher.items() if shape.stride == stride]
        if not spec.teacher_features and len(equal_stride) == 1:
            return equal_stride[0]
        missing += f" and {len(equal_stride)} of stride {stride}"
    known = ", ".join(
        f"{name} ({'vector' if shape.stride is None else f'stride {shape.stride}'})"
        for name, shape in teacher.items()
    )
    raise spec.error(f"{missing}: it has {known}; name the counterparts in teacher_features")


def check_fit(
    spec: TermSpec,
    loss: DistillLoss,
    names: tuple[str, str],
    shapes: tuple[FeatureShape, FeatureShape],
) -> None:
    """Raise ValueError unless a loss and its adapter take these features of student and teacher."""
    takes = {"maps": ("map", "maps (B, C, H, W)"), "logits": ("vector", "logits (B, P)")}
    if loss.inputs in takes:
        kind, words = takes[loss.inputs]
        for side, name, shape in zip(("student", "teacher"), names, shapes, strict=True):
            if shape.kind != kind:
                raise spec.error(
                    f"{spec.loss} relates {words}, but the {side}'s {name!r} is a {shape.kind}"
                )
    adapter = ADAPTERS_OF[shapes[0].kind][0]
    if spec.adapter not in ("identity", *ADAPTERS_OF[shapes[0].kind]):
        raise spec.error(
            f"the student's {names[0]!r} is a {shapes[0].kind}, which the adapter "
            f"{spec.adapter!r} does not take: set {adapter!r}"
        )
    widths = [shape.channels for shape in shapes]
    if widths[0] != widths[1] and loss.needs_equal_width and spec.adapter == "identity":
        remedy = {
            "maps": ", or a loss that takes different widths (PatchCKA with grouping 'batch')",
            "logits": " for features; logits need the same classes on both sides",
        }[loss.inputs]
        raise spec.error(
            f"the student's {names[0]} has {widths[0]} channels, the teacher's {names[1]} "
            f"{widths[1]}: set the adapter {adapter!r}{remedy}"
        )
