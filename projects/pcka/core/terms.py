"""Distillation terms: pairs of features, each with its loss and weight.

One :class:`TermSpec` is one entry of a configuration. :class:`DistillTerms` turns the features of
student and teacher into named losses. Detection and classification share both.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .adapters import ADAPTERS
from .balance import Balance
from .features import FeatureShape, cells_of_images, on_common_extent
from .losses import DistillLoss
from .pairing import Pairing, check_fit, partner_of
from .term_spec import TermSpec


class DistillTerms(nn.Module):
    """The losses ``{loss_<term>_<feature>: scalar}`` of the features of both networks.

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
        self.balances = nn.ModuleDict()  # by feature, its dots replaced
        for spec in specs:
            if spec.strength == 0:
                continue
            for index, feature in enumerate(spec.features):
                if feature not in student:
                    raise spec.error(
                        f"the student has no feature {feature!r}: it has {', '.join(student)}"
                    )
                partner = partner_of(spec, index, student[feature].stride, teacher)
                shapes = student[feature], teacher[partner]
                loss = spec.build_loss(index)
                check_fit(spec, loss, (feature, partner), shapes)
                key = _entry(f"{spec.name}_{feature}")
                if key in self.pairings:
                    raise spec.error(f"another loss is called {key!r} too: rename the term")
                self.losses[key] = loss
                self.adapters[key] = ADAPTERS[spec.adapter](*(s.channels for s in shapes))
                self.pairings[key] = Pairing(
                    student=feature,
                    teacher=partner,
                    weight=1.0 if spec.is_ratio else float(spec.strength),
                    ratio=float(spec.strength) if spec.is_ratio else None,
                    schedule=spec.build_schedule(),
                    stride=shapes[0].stride,
                    teacher_stride=shapes[1].stride,
                )
                if spec.is_ratio and _entry(feature) not in self.balances:
                    self.balances[_entry(feature)] = Balance(feature)

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
            student, teacher: maps ``(B, C, H, W)`` and vectors ``(B, C)``. The teacher's may be
                those of the pairings that are ``on`` alone.
            target: the labels ``(B,)``, for the losses that need them.
            progress: the progress of the training, in [0, 1], for the schedules; None gives every
                term its full weight. A pairing that is not on is not computed, and gives 0.
            image_sizes: height and width of each image in pixels, to leave the padding of the batch
                out of the losses of maps; None leaves it in.

        Raises:
            ValueError: no target where a loss needs one.
        """
        losses, on = {}, self.on(progress)
        for key, pair in self.pairings.items():
            x = student[pair.student]
            if key in on:
                weight, y = pair.weight_at(progress), teacher[pair.teacher]
                if pair.ratio is None or not torch.is_grad_enabled():
                    loss = weight * self._loss(key, x, y, target, image_sizes)
                else:
                    leaf = x.detach().requires_grad_()
                    loss = self._loss(key, leaf, y, target, image_sizes)
                    balance, fades = self._balance(pair.student), bool(self.loss(key).similarity)
                    loss = balance.add(key, pair.ratio, weight, loss, leaf, fades=fades)
                losses[f"loss_{key}"] = loss
            else:
                # The zero depends on the adapter, because several processes wait for a gradient
                # of every parameter.
                reached = [p.sum() * 0 for p in self.adapters[key].parameters()]
                losses[f"loss_{key}"] = sum(reached, x.new_zeros(()))
        return losses

    def through(self, name: str, feature: Tensor) -> Tensor:
        """Return what the student goes on with in place of a feature, see :class:`.Balance`.

        Where a weight is a ratio (``self.balances``), the student's forward has to call it for its
        features, as :meth:`.Taps.record` does.
        """
        if _entry(name) not in self.balances:
            return feature
        keys = [k for k, p in self.pairings.items() if p.student == name and p.ratio is not None]
        parameters = [p for key in keys for p in self.adapters[key].parameters()]
        return self._balance(name).through(feature, parameters)

    @property
    def balance_figures(self) -> dict[str, Tensor]:
        """The figures of all balances, of the last backward: ``weight/...``, ``gradient/...``."""
        figures: dict[str, Tensor] = {}
        for balance in self.balances.values():
            figures |= cast(Balance, balance).figures
        return figures

    def _balance(self, feature: str) -> Balance:
        return cast(Balance, self.balances[_entry(feature)])

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
        """Whether a loss reads the batches of all processes, which then need one shape."""
        return any(self.loss(key).gather for key in self.losses)

    def loss(self, key: str) -> DistillLoss:
        """Return the loss of a pairing."""
        return cast(DistillLoss, self.losses[key])

    def similarities(
        self, losses: Mapping[str, float], progress: Sequence[float | None] = (None,)
    ) -> dict[str, float]:
        """Return the readable figure behind each loss: ``{"cka/pcka_p2": 0.93}``.

        Args:
            losses: the losses of one step, or their means over several.
            progress: the progress at each of these steps. The figure of several steps is a mean in
                which a step counts with the term's weight. A term that was off in all has none.
        """
        figures = {}
        for key, pair in self.pairings.items():
            weight = sum(pair.weight_at(p) for p in progress) / len(progress)
            if (similarity := self.loss(key).similarity) and weight:
                figures[f"{similarity}/{key}"] = 1 - losses[f"loss_{key}"] / weight
        return figures


def _entry(feature: str) -> str:
    """Return the name of a feature as a module may have it."""
    return feature.replace(".", "_")
