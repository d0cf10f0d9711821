"""What has to be known of the runs of one kind: detection's, or classification's."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcka.errors import ConfigError, unknown_key

# Imported when asked for: classification needs no detectron2.
TASKS = {
    "detection": "pcka.experiments.detection.task",
    "classification": "pcka.experiments.classification.task",
}


def task_of(name: str) -> "Task":
    """The task of a name of ``TASKS``; raises ConfigError for another."""
    if name not in TASKS:
        raise ConfigError(f"TASK: {unknown_key(name, TASKS)}")
    return importlib.import_module(TASKS[name]).TASK


class Task(ABC):
    """Runs of one kind: how to read their configs, train them and read their results.

    Attributes:
        seed_key, output_key, teacher_key: keys of a config: its seed, its folder, and the file of
            weights of its teacher.
        weights, checkpoint: files in a run's folder: the trained network, and what is there once
            the run can be resumed.
        unit: of progress.
        metrics: columns of the table; students are compared by the first.
        cost: another one, a mean over seeds: seconds, or images per second.
    """

    seed_key: str
    output_key: str
    teacher_key: str
    weights: str
    checkpoint: str
    unit: str
    metrics: tuple[str, ...]
    cost: str

    @abstractmethod
    def load(self, files: tuple[str, ...], opts: tuple[str, ...]) -> Any:
        """The config of files and overrides; raises ConfigError for one that is not valid."""

    @abstractmethod
    def differences(self, folder: Path, cfg: Any) -> list[str]:
        """Keys in which the config of the run in ``folder`` differs from ``cfg``."""

    @abstractmethod
    def needs_teacher(self, cfg: Any) -> bool:
        """Whether the run is taught."""

    @abstractmethod
    def length(self, cfg: Any) -> int:
        """Of the run, in ``unit``."""

    @abstractmethod
    def progress(self, folder: Path) -> int:
        """How far the run in ``folder`` is, in ``unit``."""

    @abstractmethod
    def check(self, cfg: Any, *, teacher: bool) -> None:
        """Raise ConfigError for what keeps the run from starting.

        ``teacher``: whether the weights of the teacher of a run that is taught have to be there.
        """

    @abstractmethod
    def command(self, files: tuple[str, ...], *, resume: bool) -> list[str]:
        """What trains; overrides are appended."""

    def environment(self) -> dict[str, str]:
        """Variables that the process needs in addition."""
        return {}

    @abstractmethod
    def results(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """A finished run's figures by column: ``metrics``, ``parameters`` and ``cost``."""

    @abstractmethod
    def evaluated_on(self, cfg: Any) -> str:
        """The images that the metrics are of; weights are tuned on others than are reported."""

    @abstractmethod
    def note(self, cfg: Any) -> str:
        """What the columns are, in words, to stand below the table."""

    @abstractmethod
    def draw_picture(self, comparison: Any) -> Any:
        """A matplotlib figure of the finished ``Comparison``."""

    @abstractmethod
    def values(self, cfg: Any) -> dict[str, Any]:
        """The config as plain values by dotted key."""

    @abstractmethod
    def pictures(
        self,
        folder: Path,
        *,
        alone: str | Path,
        images: int | None,
        image: int | None,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
    ) -> Iterator[tuple[str, Any]]:
        """Names and matplotlib figures of what the student of a finished run took over.

        Args:
            folder: of the run.
            alone: that of the student trained alone, to stand in the place of the untrained one.
            images: how many of the evaluation layers are compared over; None: as many as is usual.
            image: the one whose Gram matrices are drawn, where they are those of an image.
            student_layers, teacher_layers: by name; empty: all.

        Raises:
            ConfigError: a folder, layer or image that is not there.
        """

    @abstractmethod
    def sections(
        self, students: Mapping[str, Sequence[Any]], teacher: Any | None, *, images: int
    ) -> list[Any]:
        """The pictures of finished runs, as sections of a page.

        Args:
            students: runs by label, one per seed; pictures of single images show the first.
            teacher: its own run; None where there is none.
            images: how many of them such pictures show.
        """
