"""Means over seeds, with standard deviations and intervals."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95
PERCENT = f"{100 * CONFIDENCE:.0f} %"


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds.

    Attributes:
        std: sample standard deviation (n - 1); None for n = 1.
        interval: the interval of the mean, with ``CONFIDENCE``, by Student's t; None for n = 1.
    """

    mean: float
    std: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        if self.std is None:
            return None
        half = stdtrit(self.n - 1, (1 + CONFIDENCE) / 2) * self.std / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    def spread(self, spec: str) -> str:
        """Return ``24.0 ± 11.0``, with numbers formatted by ``spec``."""
        mean = format(self.mean, spec)
        return mean if self.std is None else f"{mean} ± {format(self.std, spec.lstrip('+'))}"


def estimate(values: Iterable[float]) -> Estimate:
    """Return the estimate of one value per seed; raise StatisticsError for none."""
    values = list(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    return Estimate(statistics.mean(values), std, len(values))


def paired_differences(values: Mapping[int, float], base: Mapping[int, float]) -> dict[int, float]:
    """Return ``values - base`` by seed, for the seeds that both have."""
    return {seed: value - base[seed] for seed, value in values.items() if seed in base}
