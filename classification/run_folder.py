"""Checks of a run's folder: one run, resumed with its own config, its own data, all its files."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcka.errors import ConfigError
from pcka.files import PART, check_writable, read_json
from pcka.keys import leaves
from pcka.run_lock import LOCK

from .config import Config, config_differences, load_config, to_dict
from .records import CHECKPOINT, CONFIG, DATA, read_metrics

logger = logging.getLogger(__name__)

# What a study writes beside a run before it starts; it does not make a folder taken.
LOG = "train.log"
# Where and how a run computes, and how often it reports, may change when it is resumed; what it
# computes may not. ``data.memory_mb`` may, as long as the images stay in memory, or on disk.
MAY_CHANGE = (
    "output_dir",
    "device",
    "data.root",
    "data.download",
    "data.workers",
    "data.memory_mb",
    "teacher.min_accuracy",
    "teacher.prepare",
    "train.compile",
    "train.cuda_graph",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.picture_every",
)


def check_folder(cfg: Config, *, resume: bool) -> Path:
    """Return the run's folder, which a new run can be made in, or which holds the run to resume.

    Raises:
        ConfigError: it cannot be written, holds a run that would be overwritten, something else,
            a run of another config, or one whose checkpoint is gone.
    """
    folder = Path(cfg.output_dir).expanduser()
    check_writable(folder, "output_dir")
    if (folder / CONFIG).is_file():
        if not resume:
            raise ConfigError(
                f"output_dir {folder} holds a run: continue it with --resume, or name another"
            )
        _check_config(cfg, folder)
        _check_checkpoint(cfg, folder)
    elif folder.exists() and not all(
        f.suffix == PART or f.name in (LOG, LOCK) for f in folder.iterdir()
    ):
        lost = (folder / CHECKPOINT).is_file()
        raise ConfigError(
            f"output_dir {folder} holds a run whose {CONFIG} is gone, so that nothing says whether "
            "it is this run: put it back, or name another folder"
            if lost
            else f"output_dir {folder} holds something else: name another folder"
        )
    return folder


def check_data(folder: Path, data: Mapping[str, Any]) -> None:
    """Check that a run is resumed with the classes and images that it began with.

    Args:
        folder: the folder of the run.
        data: the record of what is there now, see :class:`pcka.classification.data.Data`.

    Raises:
        ConfigError: names each difference.
    """
    try:
        before = read_json(folder / DATA)
    except ValueError:
        before = {}
    if before is None:
        if (folder / CHECKPOINT).is_file():  # else the run was killed before it wrote anything
            logger.warning(
                "%s is gone: nothing says whether the run began with these images", folder / DATA
            )
        return
    if not isinstance(before, dict) or before.keys() != data.keys():
        raise ConfigError(
            f"{folder / DATA} is damaged, so that nothing says whether the run began with these "
            "images: put it back, or name another output_dir"
        )
    now = json.loads(json.dumps(data))
    changed = [
        _difference(key, before[key], now[key])
        for key in data
        if before[key] != now[key] and "" not in (before[key], now[key])  # "": is not known
    ]
    if changed:
        raise ConfigError(
            f"cannot resume {folder}: it began with other data. Different: {'; '.join(changed)}. "
            "Set these back, or name another output_dir"
        )


def _difference(key: str, before: Any, now: Any) -> str:
    if key == "images are kept":
        return f"images were kept {before}, are kept {now} (set data.memory_mb)"
    if isinstance(before, list) and isinstance(now, list):
        gone = [name for name in before if name not in now]
        new = [name for name in now if name not in before]
        return f"{key} ({len(before)} then, {len(now)} now; gone: {gone[:5]}, new: {new[:5]})"
    if isinstance(before, str):  # a checksum
        return key
    return f"{key} (was {before}, is {now})"


def _check_config(cfg: Config, folder: Path) -> None:
    try:
        before = load_config([folder / CONFIG])
    except ConfigError as error:
        raise ConfigError(
            f"{folder / CONFIG} is damaged, so that nothing says whether this is the same run "
            f"({error}): put it back, or name another output_dir"
        ) from error
    was, now = leaves(to_dict(before)), leaves(to_dict(cfg))
    changed = [
        f"{key} (was {_brief(was.get(key))}, is {_brief(now.get(key))})"
        for key in config_differences(before, cfg, ignore=MAY_CHANGE)
    ]
    if changed:
        raise ConfigError(
            f"output_dir {folder} holds a run of another config (different: "
            f"{', '.join(changed)}): set these back, or name another folder"
        )


def _check_checkpoint(cfg: Config, folder: Path) -> None:
    """Raise ConfigError where epochs were done of which no checkpoint is left."""
    rows = read_metrics(folder)
    # The row of an epoch is written before its checkpoint.
    done = int(rows[-1]["epoch"]) - 1 if rows else 0
    every = load_config([folder / CONFIG]).train.checkpoint_every
    if done >= every and not (folder / CHECKPOINT).is_file():
        raise ConfigError(
            f"cannot resume {folder}: it has done {done} epochs or more, and {CHECKPOINT} is gone: "
            "put it back, or start again in another output_dir"
        )


def _brief(value: Any) -> str:
    return json.dumps(value, default=str)[:60]
