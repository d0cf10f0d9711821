"""Finished runs: the kind of the run in a folder, detector or classifier, and its weights."""

from pathlib import Path
from typing import Literal, NamedTuple

import torch

from pcka.errors import ConfigError
from pcka.yaml_files import read_mapping

Kind = Literal["detection", "classification"]

CONFIG = "config.yaml"
# The kinds by a key that every config of the kind has, and the file of their trained weights.
_KINDS: dict[str, tuple[Kind, str]] = {
    "MODEL": ("detection", "model_final.pth"),
    "student": ("classification", "student.pth"),
}


class TrainedRun(NamedTuple):
    """A finished run.

    Attributes:
        folder: the folder of the run.
        kind: the kind of network that it trained.
        weights: file of the student's trained weights.
    """

    folder: Path
    kind: Kind
    weights: Path

    @property
    def config(self) -> Path:
        return self.folder / CONFIG


def find_run(folder: str | Path) -> TrainedRun:
    """Return the run in a folder.

    Raises:
        ConfigError: no such folder, a folder without a run, or a run without trained weights.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"RUN {folder} is no folder: give the output folder of a finished run")
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(
            f"RUN {folder} holds no run, as it has no {CONFIG}: give the output folder of "
            "pcka train (OUTPUT_DIR) or pcka classify (output_dir)"
        )
    keys = read_mapping(path, what="the config")
    for key, (kind, name) in _KINDS.items():
        if key not in keys:
            continue
        if not (folder / name).is_file():
            raise ConfigError(
                f"the run in {folder} has no trained weights ({name}): continue it with --resume"
            )
        return TrainedRun(folder, kind, folder / name)
    raise ConfigError(f"{path} is no config of a detector (MODEL) or a classifier (student)")


def device_of(name: str) -> torch.device:
    """Return the device of ``--device``; ``auto`` takes a GPU where there is one.

    Raises:
        ConfigError: an unknown name, or a GPU that does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name} is not usable here ({reason}): try cpu") from error
    return device
