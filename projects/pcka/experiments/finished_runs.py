"""Reading the folders that finished runs and studies left."""

from dataclasses import dataclass
from pathlib import Path

from pcka.errors import ConfigError
from pcka.yaml_files import read_mapping

from .study.kinds import RunKind, kind_of
from .study.report import read_results
from .study.run import Run
from .study.run_factory import slug_of

_CONFIG, _RESULTS = "config.yaml", "results.json"
# The kinds by a key that every config of the kind has and no config of the other.
_KINDS = {"MODEL": "detection", "student": "classification"}


@dataclass(frozen=True)
class FinishedRuns:
    """Runs of one kind by label, one per seed, and the run of their teacher, if it exists.

    Args:
        base: the label that the others are compared with; None for no comparison.
        command: the command of all runs together; "" if unknown.
    """

    title: str
    kind: RunKind
    students: dict[str, list[Run]]
    teacher: Run | None = None
    base: str | None = None
    command: str = ""

    @property
    def runs(self) -> dict[str, list[Run]]:
        """The runs by label, the teacher's first."""
        return {**({"teacher": [self.teacher]} if self.teacher else {}), **self.students}


def read_run(folder: Path, label: str) -> Run:
    """Read a finished run, of either kind.

    Raises:
        ConfigError: no run, one that is not finished, or a config that cannot be read.
    """
    path = folder / _CONFIG
    kind, keys = _kind_and_keys(folder)
    cfg = kind.configs.read((str(path),), ())
    run = Run(
        kind=kind,
        label=label,
        seed=keys[kind.configs.seed_key],
        files=(str(path),),
        opts=(),
        output_dir=folder,
        teacher=None,
        length=kind.training.length(cfg),
    )
    if run.summary is None:
        raise ConfigError(
            f"{folder} is not finished: {run.progress} of {run.length} {kind.training.unit}. "
            "Continue it with --resume"
        )
    return run


def kind_of_run(folder: Path) -> RunKind:
    """Return the kind of the run in a folder; raise ConfigError where there is none."""
    return _kind_and_keys(folder)[0]


def weights_of_run(folder: Path, *, kind: str) -> Path:
    """Return the file of trained weights of a finished run of this kind.

    Raises:
        ConfigError: no run, one of the other kind, or one that is not finished.
    """
    found = kind_of_run(folder)
    if found.name != kind:
        raise ConfigError(f"{folder} holds a run of {found.name}, not of {kind}")
    weights = folder / found.training.weights
    if not weights.is_file():
        raise ConfigError(
            f"the run in {folder} is not finished, as it has no {weights.name}: continue it with "
            "--resume"
        )
    return weights


def is_study(folder: Path) -> bool:
    """Return whether a study wrote to this folder, finished or not."""
    return (folder / _RESULTS).is_file() or (folder / "teacher" / _CONFIG).is_file()


def read_study(folder: Path) -> FinishedRuns:
    """Read a finished study from its folder alone; the study file is not needed.

    Raises:
        ConfigError: the study is not finished, or a run of it is missing.
    """
    path = folder / _RESULTS
    if not path.is_file():
        raise ConfigError(
            f"the study in {folder} is not finished: run pcka study again, which continues it"
        )
    labels = {
        label: [int(entry["seed"]) for entry in entries]
        for label, entries in read_results(path).items()
        if entries
    }
    taught = labels.pop("teacher", None)
    teacher = read_run(folder / "teacher", "teacher") if taught else None
    reported = folder / "report" if (folder / "report").is_dir() else folder
    students = {
        label: [read_run(_folder_of(reported / slug_of(label), seed), label) for seed in seeds]
        for label, seeds in labels.items()
    }
    kind = next(iter(students.values()))[0].kind
    title, command = _read_table(folder / "table.md")
    base = next(iter(students))
    return FinishedRuns(title or folder.name, kind, students, teacher, base, command)


def _folder_of(setting: Path, seed: int) -> Path:
    """Return the folder of a run; the runs of a tuned setting lie in a folder of the value."""
    found = [setting / f"seed{seed}", *sorted(setting.glob(f"*/seed{seed}"))]
    return next((folder for folder in found if folder.is_dir()), found[0])


def _kind_and_keys(folder: Path) -> tuple[RunKind, dict]:
    path = folder / _CONFIG
    if not path.is_file():
        raise ConfigError(
            f"{folder} is no folder of a run or a study: there is no {_CONFIG} of a run and no "
            f"{_RESULTS} of a study in it"
        )
    keys = read_mapping(path, what="the config")
    for key, name in _KINDS.items():
        if key in keys:
            return kind_of(name), keys
    raise ConfigError(f"{path} is no config of a detector (MODEL) or a classifier (student)")


def _read_table(path: Path) -> tuple[str, str]:
    """Return the title and the command in the table of a study, "" if the table is missing."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else [""]
    command = [line for line in lines if line.startswith("Command: `")]
    text = command[-1].removeprefix("Command: `").removesuffix("`") if command else ""
    return lines[0].removeprefix("# "), text
