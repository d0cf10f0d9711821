"""What a run leaves in its folder.

``config.yaml`` (resolved), ``environment.json``, ``metrics.csv`` and TensorBoard events,
``checkpoint.pth`` (to resume from), ``student.pth`` (the weights alone) and ``summary.json``.
"""

import csv
import json
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision

from pcka.comparison import LOG
from pcka.errors import ConfigError

from .config import Config, config_differences, load_config, save_config

CONFIG, CHECKPOINT, STUDENT = "config.yaml", "checkpoint.pth", "student.pth"
METRICS, SUMMARY, ENVIRONMENT = "metrics.csv", "summary.json", "environment.json"
# What a run may be resumed with another value of: where and how it computes, not what.
_MAY_CHANGE = (
    "output_dir", "device", "data.root", "data.download", "data.workers", "data.memory_mb",
    "train.compile", "train.log_every", "train.checkpoint_every", "train.checkpoint_minutes",
)  # fmt: skip

logger = logging.getLogger("classification")


def open_folder(cfg: Config, *, resume: bool) -> Path:
    """Make the run's folder, or take up the one that is there.

    Raises:
        ConfigError: it holds a run that would be overwritten, or one of another config.
    """
    folder = Path(cfg.output_dir)
    if (folder / CONFIG).is_file():
        if not resume:
            raise ConfigError(
                f"output_dir {folder} holds a run: continue it with --resume, or name another"
            )
        changed = config_differences(load_config([folder / CONFIG]), cfg, ignore=_MAY_CHANGE)
        if changed:
            raise ConfigError(
                f"output_dir {folder} holds a run of another config (different: "
                f"{', '.join(changed)}): set these back, or name another folder"
            )
    elif folder.exists() and not (
        folder.is_dir() and all(file.name == LOG for file in folder.iterdir())
    ):
        raise ConfigError(f"output_dir {folder} holds something else: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def describe_run(cfg: Config, folder: Path, device: torch.device) -> None:
    """Write the resolved config and what it runs on."""
    save_config(cfg, folder / CONFIG)
    write_json(folder / ENVIRONMENT, environment(device))


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device, and the state of the source."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(),
        "git": _git("rev-parse", "HEAD"),
        "git_changes": _git("status", "--porcelain", "--untracked-files=no").splitlines(),
    }


def write_json(path: Path, content: Any) -> None:
    """Write, or leave what was there: never half a file."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def save(content: Any, path: Path) -> None:
    """``torch.save``, or what was there: never half a file."""
    part = path.with_name(path.name + ".part")
    torch.save(content, part)
    os.replace(part, path)


def write_metrics(path: Path, history: list[dict[str, float]]) -> None:
    """One line per epoch, all of them anew: a resumed run leaves no line twice."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)
    os.replace(part, path)


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
