"""One distillation term, as a configuration describes it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .adapters import ADAPTERS
from .losses import LOSSES, DistillLoss
from .schedules import Schedule


@dataclass(frozen=True)
class TermSpec:
    """One distillation term.

    RCKA is three of them: ``FeatureCKA`` on features, and ``LogitCKA`` on logits twice, with the
    relations ``intra`` and ``inter``.

    Args:
        name: the term's name in logs and losses.
        features: names of student features; each gets a loss of its own.
        loss: a name of :data:`pcka.core.LOSSES`.
        loss_args: its arguments; a list gives one value per feature.
        weight: factor of every loss of the term, >= 0; or ``{"ratio": r}``, which holds the
            gradient of every loss at r times that of the task, see :mod:`pcka.core.balance`.
        schedule: arguments of :class:`pcka.core.schedules.Schedule`, by which the weight changes
            over a run; constant if it is empty.
        teacher_features: the teacher's features, if their names differ. If empty, features are
            paired by equal name, else, for a map, by the one teacher feature of equal stride.
        adapter: a name of ``ADAPTERS``, applied to the student.

    Raises:
        ValueError: names the term, the argument and what it may be.
    """

    name: str
    features: Sequence[str]
    loss: str = "PatchCKA"
    loss_args: Mapping[str, Any] = field(default_factory=dict)
    weight: float | Mapping[str, float] = 1.0
    teacher_features: Sequence[str] = ()
    adapter: str = "identity"
    schedule: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not self.name or not str(self.name).isidentifier():
            raise ValueError(f"a term's name is an identifier such as 'pcka', got {self.name!r}")
        for key, value, known in (
            ("loss", self.loss, LOSSES),
            ("adapter", self.adapter, ADAPTERS),
        ):
            if value not in known:
                raise self.error(f"unknown {key} {value!r}: one of {', '.join(sorted(known))}")
        if isinstance(self.weight, Mapping) and set(self.weight) != {"ratio"}:
            raise self.error(f"weight is a number or {{ratio: number}}, got {dict(self.weight)}")
        what = "ratio" if self.is_ratio else "weight"
        if isinstance(self.strength, bool) or not isinstance(self.strength, int | float):
            raise self.error(f"{what} is a number, got {self.strength!r}")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise self.error(f"{what} is finite and not negative, got {self.strength}")
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
        self.build_schedule()

    @property
    def is_ratio(self) -> bool:
        """Whether the weight is the ratio of two gradients and not a factor of the loss."""
        return isinstance(self.weight, Mapping)

    @property
    def strength(self) -> float:
        """The number in ``weight``; a term of 0 is left out."""
        return self.weight["ratio"] if isinstance(self.weight, Mapping) else self.weight

    def error(self, message: str) -> ValueError:
        return ValueError(f"term {self.name!r}: {message}")

    def build_loss(self, index: int) -> DistillLoss:
        """Build the loss of the ``index``-th feature."""
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

    def build_schedule(self) -> Schedule:
        """Build the schedule by which the weight changes over a run."""
        known = [argument.name for argument in fields(Schedule)]
        if not isinstance(self.schedule, Mapping) or not set(self.schedule) <= set(known):
            raise self.error(f"schedule is a mapping with {', '.join(known)}, got {self.schedule}")
        try:
            return Schedule(**self.schedule)
        except ValueError as error:
            raise self.error(f"schedule: {error}") from error
