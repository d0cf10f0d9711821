"""An ablation: settings, each of which may be tuned first, compared with a base."""

import math
from dataclasses import dataclass
from pathlib import Path

from .estimates import Estimate, estimate
from .run import Run
from .scheduler import check_runs, train_all
from .task import Task


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
        return estimate(run.results[run.task.metrics[0]] for run in self.tuning)


@dataclass(frozen=True)
class Setting:
    """What is compared: its place on the axes, and the candidates for what is tuned.

    Args:
        axes: name of axis -> name of value.
        tune: what is tuned, in a word; "" for nothing.
    """

    name: str
    axes: dict[str, str]
    tune: str
    candidates: list[Candidate]

    @property
    def chosen(self) -> Candidate | None:
        """The candidate of the best mean of the first metric over the tuning seeds, the first of
        equal ones; None if none has finished on all of them."""
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
class Ablation:
    """An ablation file, resolved; the first of the settings is the base."""

    task: Task
    title: str
    output_dir: Path
    teacher: Run | None
    settings: list[Setting]
    seeds: list[int]
    tuning_seeds: list[int]

    @property
    def base(self) -> Setting:
        return self.settings[0]

    @property
    def tuning_runs(self) -> list[Run]:
        return [run for s in self.settings for c in s.candidates for run in c.tuning]

    @property
    def report_runs(self) -> list[Run]:
        return [run for setting in self.settings for run in setting.report]


def run_ablation(ablation: Ablation, *, jobs: int, retry_failed: bool) -> list[Run]:
    """Tune, then train what is reported; both only as far as it is not done yet.

    Returns:
        The runs without results, of both stages.

    Raises:
        ConfigError: before any run, if one of them cannot start.
    """
    candidates = [c for setting in ablation.settings for c in setting.candidates]
    every_run = [run for c in candidates for run in (*c.tuning, *c.report)]
    first = [*([ablation.teacher] if ablation.teacher else []), *ablation.tuning_runs]
    check_runs([*first, *every_run])
    print(f"{ablation.title}, in {ablation.output_dir}")
    missing = []
    if first:
        later = sum(run.length for s in ablation.settings for run in s.candidates[0].report)
        title = "1 of 2, tuning" if ablation.tuning_runs else "1 of 2, the teacher"
        missing += train_all(first, title=title, jobs=jobs, retry_failed=retry_failed, later=later)
    title = "2 of 2, runs of the report" if first else "runs of the report"
    missing += train_all(ablation.report_runs, title=title, jobs=jobs, retry_failed=retry_failed)
    return missing
