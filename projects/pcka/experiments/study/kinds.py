"""The kinds of runs that a study can have: detectors and classifiers.

There is one class for each job: reading configs, training, and reading results. Drawing is a module
of its own for each kind (``pcka.experiments.detection.drawing``), imported when something is drawn.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pcka.errors import ConfigError, unknown_key

# Imported on demand, so that classification needs no detectron2.
KINDS = {
    "detection": "pcka.experiments.detection.kind",
    "classification": "pcka.experiments.classification.kind",
}


class ConfigReader(ABC):
    """Reads configs of one kind.

    Attributes:
        seed_key, output_key, teacher_key: keys of a config for its seed, its folder, and the file
            of its teacher's weights.
    """

    seed_key: str
    output_key: str
    teacher_key: str

    @abstractmethod
    def read(self, files: tuple[str, ...], opts: tuple[str, ...]) -> Any:
        """Return the config of files and overrides; raise ConfigError for one that is invalid."""

    @abstractmethod
    def differences(self, folder: Path, cfg: Any) -> list[str]:
        """Return the keys in which the config of the run in ``folder`` differs from ``cfg``."""

    @abstractmethod
    def is_taught(self, cfg: Any) -> bool:
        """Return whether the run has a teacher."""

    @abstractmethod
    def evaluated_on(self, cfg: Any) -> str:
        """Return a name of the images that metrics come from; tuning and report use others."""

    @abstractmethod
    def values(self, cfg: Any) -> dict[str, Any]:
        """Return the config as plain values by dotted key."""


class Training(ABC):
    """Starts trainings of one kind and reports their progress.

    Attributes:
        weights, checkpoint: files in a run's folder: the trained network, and the one that exists
            once the run can be resumed.
        unit: the unit of progress.
    """

    weights: str
    checkpoint: str
    unit: str

    @abstractmethod
    def check(self, cfg: Any, *, teacher: bool) -> None:
        """Raise ConfigError if the run cannot start.

        Args:
            cfg: the config of the run.
            teacher: whether the weights of the run's teacher have to exist already.
        """

    @abstractmethod
    def command(self, files: tuple[str, ...], *, resume: bool) -> list[str]:
        """Return the command that trains; overrides are appended to it."""

    @abstractmethod
    def length(self, cfg: Any) -> int:
        """Return the length of the run in ``unit``."""

    @abstractmethod
    def progress(self, folder: Path) -> int:
        """Return the progress of the run in ``folder``, in ``unit``."""


class ResultReader(ABC):
    """Reads the results of finished runs of one kind.

    Attributes:
        metrics: columns of the table; settings are compared by the first.
        cost: a further column, averaged over seeds: seconds, or images per second.
    """

    metrics: tuple[str, ...]
    cost: str

    @abstractmethod
    def read(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """Return a finished run's figures by column: ``metrics``, ``parameters`` and ``cost``."""

    @abstractmethod
    def note(self, cfg: Any) -> str:
        """Return the note below the table that explains its columns."""


@dataclass(frozen=True)
class RunKind:
    """A kind of runs by its name in study files."""

    name: str
    configs: ConfigReader
    training: Training
    results: ResultReader


def kind_of(name: str) -> RunKind:
    """Return the kind of a name in ``KINDS``; raise ConfigError for another name."""
    if name not in KINDS:
        raise ConfigError(f"TASK: {unknown_key(name, KINDS)}")
    return importlib.import_module(KINDS[name]).KIND


def drawing_of(kind: RunKind) -> ModuleType:
    """Return the module that draws for a kind.

    It has ``study_picture(study)``, ``run_pictures(folder, **options)`` and
    ``page_sections(students, teacher, images=...)``.
    """
    return importlib.import_module(KINDS[kind.name].rpartition(".")[0] + ".drawing")
