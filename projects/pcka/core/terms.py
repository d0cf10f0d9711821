"""Distillation terms: which features meet under which loss, and with what weight.

One :class:`TermSpec` is one line of a configuration; :class:`DistillTerms` turns the features of
student and teacher into named losses. Detection and classification share both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .adapters import ADAPTERS
from .features import FeatureShape, on_common_extent
from .losses import LOSSES


@dataclass(frozen=True)
class TermSpec:
    """One distillation term.

    RCKA is three of them: ``FeatureCKA`` on features, and ``LogitCKA`` on logits twice, with the
    relations ``intra`` and ``inter``.

    Args:
        name: the term's name in logs and losses.
        features: student features, by name; each gets a loss of its own.
        loss: a name of :data:`pcka.core.LOSSES`.
        loss_args: its arguments; a list gives one value per feature.
        weight: factor of every loss of the term, >= 0.
        teacher_features: their counterparts, if the names differ; empty pairs by equal name,
            else, for a map, by the one teacher feature of equal stride.
        adapter: a name of ``ADAPTERS``, applied to the student.

    Raises:
        ValueError: names the term, the argument and what it may be.
    """

    name: str
    features: Sequence[str]
    loss: str = "PatchCKA"
    loss_args: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    teacher_features: Sequence[str] = ()
    adapter: str = "identity"

    def __post_init__(self):
        if not self.name or not str(self.name).isidentifier():
            raise ValueError(f"a term's name is an identifier such as 'pcka', got {self.name!r}")
        for key, value, known in (
            ("loss", self.loss, LOSSES),
            ("adapter", self.adapter, ADAPTERS),
        ):
            if value not in known:
                raise self.error(f"unknown {key} {value!r}: one of {', '.join(sorted(known))}")
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float):
            raise self.error(f"weight is a number, got {self.weight!r}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise self.error(f"weight is finite and not negative, got {self.weight}")
        for key, names in (
            ("features", self.features),
            ("teacher_features", self.teacher_features),
        ):
            if isinstance(names, str) or not all(isinstance(n, str) for n in names):
                raise self.error(f"{key} is a list of names, got {names!r}")
        if not self.features or len(set(self.features)) != len(self.features):
            raise self.error(f"features is a list of different names, got {list(self.features)}")
        if self.teacher_features and len(self.teacher_features) != len(self.features):
            raise self.error(
                f"{len(self.features)} features but {len(self.teacher_features)} teacher_features"
            )

    def error(self, message: str) -> ValueError:
        return ValueError(f"term {self.name!r}: {message}")

    def build_loss(self, index: int) -> nn.Module:
        """The loss of the ``index``-th feature."""
        arguments = {}
        for key, value in self.loss_args.items():
            if isinstance(value, list):
                if len(value) != len(self.features):
                    raise self.error(
                        f"loss argument {key!r} lists {len(value)} values for "
                        f"{len(self.features)} features {list(self.features)}"
                    )
                value = value[index]
            arguments[key] = value
        try:
            return LOSSES[self.loss](**arguments)
        except (TypeError, ValueError) as error:
            raise self.error(f"loss {self.loss}: {error}") from error


@dataclass(frozen=True)
class Pairing:
    """One loss of one term: the student's feature, the teacher's, and the weight.

    The strides are None for vectors.
    """

    student: str
    teacher: str
    weight: float
    stride: int | None
    teacher_stride: int | None


class DistillTerms(nn.Module):
    """Features of both networks -> ``{loss_<term>_<feature>: scalar}``.

    Args:
        specs: the terms; those of weight 0 are left out.
        student: shapes of the student's features by name.
        teacher: shapes of the teacher's.

    Raises:
        ValueError: a feature that does not exist or that its loss or adapter does not take, or
            widths that differ without an adapter.
    """

    def __init__(
        self,
        specs: Sequence[TermSpec],
        student: Mapping[str, FeatureShape],
        teacher: Mapping[str, FeatureShape],
    ):
        super().__init__()
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            raise ValueError(f"two terms have one name: {names}")
        self.pairings: dict[str, Pairing] = {}
        self.adapters = nn.ModuleDict()
        self.losses = nn.ModuleDict()
        for spec in specs:
            if spec.weight == 0:
                continue
            for index, feature in enumerate(spec.features):
                if feature not in student:
                    raise spec.error(
                        f"the student has no feature {feature!r}: it has {', '.join(student)}"
                    )
                partner = _partner(spec, index, student[feature].stride, teacher)
                shapes = student[feature], teacher[partner]
                loss = spec.build_loss(index)
                _check_fit(spec, loss, (feature, partner), shapes)
                key = f"{spec.name}_{feature}".replace(".", "_")
                if key in self.pairings:
                    raise spec.error(f"another loss is called {key!r} too: rename the term")
                self.losses[key] = loss
                self.adapters[key] = ADAPTERS[spec.adapter](*(s.channels for s in shapes))
                self.pairings[key] = Pairing(
                    student=feature,
                    teacher=partner,
                    weight=float(spec.weight),
                    stride=shapes[0].stride,
                    teacher_stride=shapes[1].stride,
                )

    def forward(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Features by name -> weighted scalar losses.

        Args:
            student, teacher: maps ``(B, C, H, W)`` and vectors ``(B, C)``.
            target: the labels ``(B,)``, for the losses that need them.

        Raises:
            ValueError: no target where a loss needs one.
        """
        losses = {}
        for key, pair in self.pairings.items():
            loss, x, y = self.losses[key], student[pair.student], teacher[pair.teacher]
            if loss.inputs == "maps":
                x, y = on_common_extent(x, y, pair.stride, pair.teacher_stride)
            inputs = [self.adapters[key](x), y]
            if loss.needs_target:
                if target is None:
                    raise ValueError(
                        f"{key}: {type(loss).__name__} needs the labels of the batch: give target"
                    )
                inputs.append(target)
            losses[f"loss_{key}"] = pair.weight * loss(*inputs)
        return losses

    @property
    def gathers(self) -> bool:
        """Whether a loss reads the batches of all processes, which then have to be of one shape."""
        return any(loss.gather for loss in self.losses.values())

    def similarities(self, losses: Mapping[str, float]) -> dict[str, float]:
        """The readable figure behind each loss: ``{"cka/pcka_p2": 0.93}`` from ``forward``'s."""
        return {
            f"{self.losses[key].similarity}/{key}": 1 - losses[f"loss_{key}"] / pair.weight
            for key, pair in self.pairings.items()
            if self.losses[key].similarity
        }


def _partner(
    spec: TermSpec, index: int, stride: int | None, teacher: Mapping[str, FeatureShape]
) -> str:
    """The teacher's feature for the ``index``-th of a term: by name, else by stride."""
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


def _check_fit(
    spec: TermSpec,
    loss: nn.Module,
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
    adapter = {"map": "conv1x1", "vector": "linear"}[shapes[0].kind]
    if spec.adapter not in ("identity", adapter):
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
