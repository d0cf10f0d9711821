"""A study: settings, each of which may be tuned first, compared with a base."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .estimates import Estimate, estimate
from .kinds import RunKind
from .run import Run
from .scheduler import check_runs, train_all


@dataclass(frozen=True)
class Candidate:
    """One value of what is tuned.

    Args:
        value: its name; "" where nothing is tuned.
        tuning: its runs on the tuning seeds and images; none where nothing is tuned.
        report: its runs on those of the report, trained only if this candidate is chosen.
    """

    value: str
    tuning: list[Run]
    report: list[Run]

    @property
    def tuned(self) -> Estimate | None:
        """The first metric over the tuning seeds; None unless all of them are finished."""
        if any(run.summary is None for run in self.tuning):
            return None
        return estimate(run.results[run.kind.results.metrics[0]] for run in self.tuning)


@dataclass(frozen=True)
class Setting:
    """What is compared: its place on the axes, and the candidates for what is tuned.

    Args:
        name: in tables; also the name of its folder.
        axes: name of axis -> name of value.
        tune: what is tuned, in a word; "" for nothing.
        candidates: one where nothing is tuned.
    """

    name: str
    axes: dict[str, str]
    tune: str
    candidates: list[Candidate]

    @property
    def chosen(self) -> Candidate | None:
        """The candidate with the best mean of the first metric over the tuning seeds.

        The first of equal ones; None if no candidate has finished on all of them.
        """
        if not self.tune:
            return self.candidates[0]
        means = {c.value: c.tuned.mean for c in self.candidates if c.tuned}
        fit = [c for c in self.candidates if math.isfinite(means.get(c.value, math.nan))]
        return max(fit, key=lambda c: means[c.value], default=None)

    @property
    def report(self) -> list[Run]:
        """The runs to report; none if nothing could be chosen."""
        return self.chosen.report if self.chosen else []


@dataclass(frozen=True)
class Study:
    """A study file, resolved; the first of the settings is the base.

    Args:
        picture: labels and number of images of a picture of the finished runs; empty for none.
    """

    kind: RunKind
    title: str
    output_dir: Path
    teacher: Run | None
    settings: list[Setting]
    seeds: list[int]
    tuning_seeds: list[int] = field(default_factory=list)
    picture: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Setting:
        return self.settings[0]

    @property
    def students(self) -> dict[str, list[Run]]:
        """The runs to report by setting, without those of which nothing could be chosen."""
        return {setting.name: setting.report for setting in self.settings if setting.report}

    @property
    def tuning_runs(self) -> list[Run]:
        return [run for s in self.settings for c in s.candidates for run in c.tuning]

    @property
    def report_runs(self) -> list[Run]:
        return [run for setting in self.settings for run in setting.report]


def run_study(
    study: Study,
    *,
    jobs: int,
    retry_failed: bool = True,
    until: float = math.inf,
    train: Callable[..., list[Run]] = train_all,
) -> list[Run]:
    """Tune, then train what is reported; both only as far as it is not done yet.

    Args:
        study: to carry out.
        jobs: runs at a time.
        retry_failed: run again what has failed before.
        until: monotonic time in seconds at which runs are stopped where they are.
        train: trains a list of runs; tests put their own in its place.

    Returns:
        The runs without results, of both stages.

    Raises:
        ConfigError: before any run, if one of them cannot start.
    """
    candidates = [c for setting in study.settings for c in setting.candidates]
    every_run = [run for c in candidates for run in (*c.tuning, *c.report)]
    teacher = [study.teacher] if study.teacher else []
    options = {"jobs": jobs, "retry_failed": retry_failed, "until": until}
    check_runs([*teacher, *every_run])
    print(f"{study.title}, in {study.output_dir}")
    if not study.tuning_runs:
        return train([*teacher, *study.report_runs], title="runs", **options)
    later = sum(run.length for s in study.settings for run in s.candidates[0].report)
    missing = train([*teacher, *study.tuning_runs], title="1 of 2, tuning", later=later, **options)
    return missing + train(study.report_runs, title="2 of 2, runs of the report", **options)
