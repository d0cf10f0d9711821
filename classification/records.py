"""What a run leaves in its folder.

``config.yaml`` (resolved), ``environment.json``, ``metrics.csv`` and TensorBoard events,
``checkpoint.pth`` (to resume from) and, at the end, ``student.pth`` (the weights alone),
``student_ema.pth`` (their moving average, if there is one) and ``summary.json``.
"""

import csv
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pcka.environment import ENVIRONMENT, environment
from pcka.errors import ConfigError
from pcka.files import PART, read_json, replacing, save_tensors, write_json

from .config import Config, config_differences, load_config, save_config

CONFIG, CHECKPOINT = "config.yaml", "checkpoint.pth"
STUDENT, STUDENT_EMA = "student.pth", "student_ema.pth"
METRICS, SUMMARY = "metrics.csv", "summary.json"
# What a study writes beside a run before it starts; it does not make a folder taken.
LOG = "train.log"
# What a run may be resumed with another value of: where and how it computes, not what.
_MAY_CHANGE = (
    "output_dir", "device", "data.root", "data.download", "data.workers", "data.memory_mb",
    "train.compile", "train.log_every", "train.checkpoint_every", "train.checkpoint_minutes",
)  # fmt: skip


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
        folder.is_dir() and all(f.suffix == PART or f.name == LOG for f in folder.iterdir())
    ):
        raise ConfigError(f"output_dir {folder} holds something else: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def describe_run(cfg: Config, folder: Path, device: torch.device) -> None:
    """Write the resolved config and what it runs on."""
    write_json(folder / ENVIRONMENT, environment(device))
    with replacing(folder / CONFIG) as part:
        save_config(cfg, part)


def save_weights(model: nn.Module, path: Path) -> None:
    """The state dict under ``model``, as published checkpoints have it."""
    save_tensors(path, {"model": {k: v.cpu() for k, v in model.state_dict().items()}})


def write_metrics(path: Path, history: list[dict[str, float]]) -> None:
    """One line per evaluation, all of them anew: a resumed run leaves no line twice."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The lines of a run's metrics; none where it has not evaluated yet."""
    path = folder / METRICS
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def accuracy_curve(folder: Path) -> tuple[list[int], list[float]]:
    """Epochs and top-1 of a run."""
    rows = read_metrics(folder)
    return [int(row["epoch"]) for row in rows], [float(row["top1"]) for row in rows]


def summarize(
    cfg: Config, history: list[dict[str, float]], student: nn.Module, device: torch.device
) -> dict[str, Any]:
    """A finished run in a few figures: the last ones, and the best beside."""
    last, best = history[-1], max(history, key=lambda row: row["top1"])
    keys = ("epoch", "top1", "top5", "ema_top1", "ema_top5")
    return {
        "last": {key: last[key] for key in keys if key in last},
        "best": {key: best[key] for key in ("epoch", "top1", "top5")},
        "seed": cfg.seed,
        "epochs": cfg.train.epochs,
        "parameters": sum(p.numel() for p in student.parameters()),
        "images_per_second": statistics.mean(row["images_per_second"] for row in history),
        "device": str(device),
    }


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a finished run; None if it is not finished."""
    return read_json(folder / SUMMARY)


def result_line(summary: dict[str, Any]) -> str:
    """``last top-1 91.20 (epoch 240), best 91.35 (epoch 233)``."""
    last, best = summary["last"], summary["best"]
    ema = f", its moving average {last['ema_top1']:.2f}" if "ema_top1" in last else ""
    return (
        f"last top-1 {last['top1']:.2f} (epoch {last['epoch']}){ema}, "
        f"best {best['top1']:.2f} (epoch {best['epoch']})"
    )
