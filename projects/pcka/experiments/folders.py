"""Folders that finished runs and comparisons left -> runs."""

import json
from pathlib import Path

import yaml

from pcka.errors import ConfigError

from .comparison_file import Comparison
from .run import Run
from .run_factory import slug_of
from .task import task_of

_CONFIG, _RESULTS = "config.yaml", "results.json"
# By the key that is in every config of the task and in none of the other.
_TASKS = {"MODEL": "detection", "student": "classification"}


def read_run(folder: Path, label: str) -> Run:
    """A finished run, of either kind.

    Raises:
        ConfigError: no run, one that is not finished, or a config that cannot be read.
    """
    path = folder / _CONFIG
    keys = _read_config(folder)
    task = task_of(_task_name(keys, path))
    cfg = task.load((str(path),), ())
    run = Run(
        task=task,
        label=label,
        seed=keys[task.seed_key],
        files=(str(path),),
        opts=(),
        output_dir=folder,
        teacher=None,
        length=task.length(cfg),
    )
    if run.summary is None:
        raise ConfigError(
            f"{folder} is not finished: {run.progress} of {run.length} {task.unit}. Continue it "
            "with --resume"
        )
    return run


def task_of_run(folder: Path) -> str:
    """The name of the task of the run in a folder: ``detection`` or ``classification``.

    Raises:
        ConfigError: no run, or a config that cannot be read.
    """
    return _task_name(_read_config(folder), folder / _CONFIG)


def weights_of_run(folder: Path, *, task: str) -> Path:
    """The file of trained weights of a finished run of this task.

    Raises:
        ConfigError: no run, one of the other task, or one that is not finished.
    """
    found = task_of_run(folder)
    if found != task:
        raise ConfigError(f"{folder} holds a run of {found}, not of {task}")
    weights = folder / task_of(task).weights
    if not weights.is_file():
        raise ConfigError(
            f"the run in {folder} is not finished, as it has no {weights.name}: continue it with "
            "--resume"
        )
    return weights


def is_comparison(folder: Path) -> bool:
    """Whether ``tools/compare.py`` wrote to this folder, finished or not."""
    return (folder / _RESULTS).is_file() or (folder / "teacher" / _CONFIG).is_file()


def read_comparison(folder: Path) -> Comparison:
    """A finished comparison from its folder alone; the file that asked for it is not needed.

    Raises:
        ConfigError: not finished, or a run of it is gone.
    """
    path = folder / _RESULTS
    if not path.is_file():
        raise ConfigError(
            f"the comparison in {folder} is not finished: run tools/compare.py again, which goes on"
        )
    labels = {
        label: [entry["seed"] for entry in entries]
        for label, entries in json.loads(path.read_text(encoding="utf-8")).items()
    }
    taught = labels.pop("teacher", None)
    teacher = read_run(folder / "teacher", "teacher") if taught else None
    students = {
        label: [read_run(folder / slug_of(label) / f"seed{s}", label) for s in seeds]
        for label, seeds in labels.items()
    }
    task = next(iter(students.values()))[0].task
    return Comparison(task, _title(folder), folder, teacher, students)


def _read_config(folder: Path) -> dict:
    path = folder / _CONFIG
    if not path.is_file():
        raise ConfigError(
            f"{folder} is no folder of a run or a comparison: there is no {_CONFIG} of a run and "
            f"no {_RESULTS} of a comparison in it"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return content if isinstance(content, dict) else {}


def _task_name(config: dict, path: Path) -> str:
    for key, name in _TASKS.items():
        if key in config:
            return name
    raise ConfigError(f"{path} is no config of a detector (MODEL) or a classifier (student)")


def _title(folder: Path) -> str:
    table = folder / "table.md"
    first = table.read_text(encoding="utf-8").partition("\n")[0] if table.is_file() else ""
    return first.removeprefix("# ") or folder.name
