"""Which finished run lies in a folder."""

from pathlib import Path

import yaml

from ..errors import ConfigError

# By the key that is in every config of the task and in none of the other.
_TASKS = {"MODEL": "detection", "student": "classification"}


def task_of_run(folder: Path) -> str:
    """``detection`` or ``classification``, by the config in the run's folder.

    Raises:
        ConfigError: there is no run.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no run, as it has no config.yaml: name the output folder of a training"
        )
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    for key, task in _TASKS.items():
        if isinstance(config, dict) and key in config:
            return task
    raise ConfigError(f"{path} is neither of a detector nor of a classifier")


def weights_of_run(folder: Path, name: str, *, task: str) -> Path:
    """The file of trained weights of a finished run of this task.

    Raises:
        ConfigError: no run, one of the other task, or one that is not finished.
    """
    found = task_of_run(folder)
    if found != task:
        raise ConfigError(f"{folder} holds a run of {found}, not of {task}")
    if not (folder / name).is_file():
        raise ConfigError(
            f"the run in {folder} is not finished, as it has no {name}: continue it with --resume"
        )
    return folder / name
