"""The files of a run's folder.

``config.yaml`` (resolved), ``data.json`` (class names and what identifies the images),
``environment.json``, ``metrics.csv`` and TensorBoard events,
``checkpoint.pth`` (to resume from) and, at the end, ``student.pth`` (the weights alone),
``student_ema.pth`` (their moving average, if there is one) and ``summary.json``.
"""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pcka.environment import ENVIRONMENT, environment
from pcka.files import read_json, replacing, save_tensors, write_json

from .config import Config, save_config

CONFIG, CHECKPOINT = "config.yaml", "checkpoint.pth"
STUDENT, STUDENT_EMA, STUDENT_BEST = "student.pth", "student_ema.pth", "student_best.pth"
METRICS, SUMMARY, DATA = "metrics.csv", "summary.json", "data.json"


def describe_run(cfg: Config, folder: Path, device: torch.device, data: Mapping[str, Any]) -> None:
    """Write the resolved config, what the data set is, and what the run computes on."""
    write_json(folder / ENVIRONMENT, environment(device))
    write_json(folder / DATA, data)
    with replacing(folder / CONFIG) as part:
        save_config(cfg, part)


def save_weights(model: nn.Module, path: Path, classes: Sequence[str] = ()) -> None:
    """Write the state dict under ``model``, as published checkpoints have it, and class names."""
    state = {key: value.cpu() for key, value in model.state_dict().items()}
    save_tensors(path, {"model": state, "classes": list(classes)})


def write_metrics(path: Path, history: list[dict[str, float]]) -> None:
    """Write all evaluations anew, a line each, so that a resumed run leaves no line twice."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """Return the lines of a run's metrics; none where it has no evaluation or a damaged file."""
    path = folder / METRICS
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            int(row["epoch"])
            float(row["top1"])
    except (ValueError, KeyError, TypeError, csv.Error):
        return []
    return rows


def accuracy_curve(folder: Path) -> tuple[list[int], list[float]]:
    """Return epochs and top-1 of a run."""
    rows = read_metrics(folder)
    return [int(row["epoch"]) for row in rows], [float(row["top1"]) for row in rows]


def summarize(
    cfg: Config,
    history: list[dict[str, float]],
    student: nn.Module,
    device: torch.device,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Return a finished run in a few figures: the last ones, and the best beside them."""
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
        "classes": list(classes),
    }


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a finished run; None if it is not finished, or its file is damaged."""
    try:
        summary = read_json(folder / SUMMARY)
    except ValueError:
        return None
    whole = isinstance(summary, dict) and {"last", "best", "seed"} <= summary.keys()
    return summary if whole and (folder / STUDENT).is_file() else None


def result_line(summary: dict[str, Any]) -> str:
    """Return ``last top-1 91.20 (epoch 240), best 91.35 (epoch 233)``."""
    last, best = summary["last"], summary["best"]
    ema = f", its moving average {last['ema_top1']:.2f}" if "ema_top1" in last else ""
    return (
        f"last top-1 {last['top1']:.2f} (epoch {last['epoch']}){ema}, "
        f"best {best['top1']:.2f} (epoch {best['epoch']})"
    )
