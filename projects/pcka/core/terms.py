"""Distillation terms: pairs of features, each with its loss and weight.

One :class:`TermSpec` is one line of a configuration; :class:`DistillTerms` turns the features of
student and teacher into named losses. Detection and classification share both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from .adapters import ADAPTERS
from .features import FeatureShape, cells_of_images, on_common_extent
from .losses import DistillLoss
from .schedules import Schedule
from .term_spec import TermSpec


@dataclass(frozen=True)
class Pairing:
    """One loss of one term: the student's feature, the teacher's, the weight and its schedule.

    The strides are None for vectors.
    """

    student: str
    teacher: str
    weight: float
    schedule: Schedule
    stride: int | None
    teacher_stride: int | None

    def weight_at(self, progress: float | None) -> float:
        """Return the weight at ``progress`` of the training, in [0, 1]; None: the full weight."""
        return self.weight if progress is None else self.weight * self.schedule.factor(progress)


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
                    schedule=spec.build_schedule(),
                    stride=shapes[0].stride,
                    teacher_stride=shapes[1].stride,
                )

    def forward(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor | None = None,
        *,
        progress: float | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor]:
        """Turn features by name into weighted scalar losses.

        Args:
            student, teacher: maps ``(B, C, H, W)`` and vectors ``(B, C)``; of the teacher, those
                of the pairings that are ``on``.
            target: the labels ``(B,)``, for the losses that need them.
            progress: of the training, in [0, 1], for the schedules; None, outside of a run: every
                term at its full weight. A pairing that is not on is not computed, and gives 0.
            image_sizes: height and width of each image in pixels, to leave the padding of the batch
                out of the losses of maps; None leaves it in.

        Raises:
            ValueError: no target where a loss needs one.
        """
        losses, on = {}, self.on(progress)
        for key, pair in self.pairings.items():
            x = student[pair.student]
            if key in on:
                loss = self._loss(key, x, teacher[pair.teacher], target, image_sizes)
                losses[f"loss_{key}"] = pair.weight_at(progress) * loss
            else:
                # The zero depends on the adapter, as several processes wait for a gradient of
                # every parameter.
                reached = [p.sum() * 0 for p in self.adapters[key].parameters()]
                losses[f"loss_{key}"] = sum(reached, x.new_zeros(()))
        return losses

    def _loss(self, key: str, x: Tensor, y: Tensor, target, image_sizes) -> Tensor:
        """Compute one loss, without its weight."""
        loss, pair = self.loss(key), self.pairings[key]
        is_map = loss.inputs == "maps" and pair.stride is not None
        if is_map and pair.stride and pair.teacher_stride:
            x, y = on_common_extent(x, y, pair.stride, pair.teacher_stride)
        x = self.adapters[key](x)
        if is_map and pair.stride and image_sizes is not None:
            inside = cells_of_images(x, pair.stride, image_sizes)
            if inside is not None:
                x, y = (loss.without_padding(side, inside) for side in (x, y))
        if not loss.needs_target:
            return loss(x, y)
        if target is None:
            raise ValueError(
                f"{key}: {type(loss).__name__} needs the labels of the batch: give target"
            )
        return loss(x, y, target)

    def on(self, progress: float | None = None) -> dict[str, Pairing]:
        """Return the pairings whose weight is not 0 at ``progress``."""
        return {key: pair for key, pair in self.pairings.items() if pair.weight_at(progress)}

    @property
    def gathers(self) -> bool:
        """Whether a loss reads the batches of all processes, which then have to be of one shape."""
        return any(self.loss(key).gather for key in self.losses)

    def loss(self, key: str) -> DistillLoss:
        """Return the loss of a pairing."""
        return cast(DistillLoss, self.losses[key])

    def similarities(
        self, losses: Mapping[str, float], progress: Sequence[float | None] = (None,)
    ) -> dict[str, float]:
        """Return the readable figure behind each loss: ``{"cka/pcka_p2": 0.93}``.

        Args:
            losses: of one step, or their means over several.
            progress: of each of these steps. The figure of several is a mean in which a step
                counts with the term's weight; a term that was off in all of them has none.
        """
        figures = {}
        for key, pair in self.pairings.items():
            weight = sum(pair.weight_at(p) for p in progress) / len(progress)
            if (similarity := self.loss(key).similarity) and weight:
                figures[f"{similarity}/{key}"] = 1 - losses[f"loss_{key}"] / weight
        return figures


def _partner(
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


def _check_fit(
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
