"""The weight of a term over a run. It depends on progress alone, so resuming needs no state."""

import math
from dataclasses import dataclass

KINDS = ("constant", "linear", "cosine")


def progress_at(step: int, steps: int) -> float:
    """Return the progress in the middle of step ``step``, counted from 0; 1 after all ``steps``.

    A fraction that a user gives means the edge between two steps, where rounding would decide;
    the middle of a step is clear of it.
    """
    return min((step + 0.5) / steps, 1.0)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A factor in [0, 1]: a warm-up, then a decay, then off.

    Args:
        kind: how the factor goes from 1, after the warm-up, to ``end``, at ``off_at``: ``linear``,
            half a ``cosine``, or not at all (``constant``).
        end: the factor at the end of a decay.
        warmup: fraction of the training over which the factor first rises linearly from 0.
        off_at: fraction of the training after which the factor is 0, for example that of the last
            drop of the learning rate; 1 is never.

    Raises:
        ValueError: names the argument and what it may be.
    """

    kind: str = "constant"
    end: float = 0.0
    warmup: float = 0.0
    off_at: float = 1.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}: one of {', '.join(KINDS)}")
        for name in ("end", "warmup", "off_at"):
            value = getattr(self, name)
            # A bool is no fraction, and NaN lies in no range.
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise ValueError(f"{name} is a fraction in [0, 1], got {value!r}")
        if self.kind == "constant" and self.end:
            raise ValueError(f"end {self.end} is where a decay ends: set kind to linear or cosine")
        if self.warmup >= self.off_at:
            raise ValueError(f"warmup {self.warmup} has to end before off_at {self.off_at}")

    def factor(self, progress: float) -> float:
        """Return the factor at ``progress`` of the training, in [0, 1]."""
        if progress < self.warmup:
            return progress / self.warmup
        if progress >= self.off_at < 1:
            return 0.0
        if self.kind == "constant":
            return 1.0
        done = (progress - self.warmup) / (self.off_at - self.warmup)
        left = 1 - done if self.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.end + (1 - self.end) * left
