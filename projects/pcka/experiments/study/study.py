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
    """One value that tuning tries, with its runs.

    Args:
        value: its name; "" if nothing is tuned.
        tuning: its runs on the tuning seeds and images; none if nothing is tuned.
        report: its runs on the seeds and images of the report, trained only if it is chosen.
    """

    value: str
    tuning: list[Run]
    report: list[Run]

    @property
    def tuned(self) -> Estimate | None:
        """The estimate of the first metric over the tuning seeds; None unless all are finished."""
        if any(run.summary is None for run in self.tuning):
            return None
        return estimate(run.results[run.kind.results.metrics[0]] for run in self.tuning)


@dataclass(frozen=True)
class Setting:
    """One row of the table: its place on the axes, and the candidates of its tuning.

    Args:
        name: its name in tables, and of its folder.
        axes: the name of its value on each axis.
        tune: a word for the tuned key; "" if nothing is tuned.
        candidates: the values to try; a single one if nothing is tuned.
    """

    name: str
    axes: dict[str, str]
    tune: str
    candidates: list[Candidate]

    @property
    def chosen(self) -> Candidate | None:
        """The candidate with the best mean of the first metric over the tuning seeds.

        Of equal ones it is the first; None if no candidate has finished on all seeds.
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
        picture: labels and number of images for the picture of the finished runs; empty for none.
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
        """The runs to report by setting, without settings for which nothing could be chosen."""
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
    """Tune, then train the runs to report; finished runs are kept.

    Args:
        study: the study to carry out.
        jobs: the number of runs at a time.
        retry_failed: whether to run failed runs again.
        until: the monotonic time in seconds at which runs are stopped.
        train: trains a list of runs; tests replace it.

    Returns:
        The runs without results, of both stages.

    Raises:
        ConfigError: a run cannot start; raised before any run starts.
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
