"""Checks of the output folder: one run, resumed with its own config from a whole checkpoint."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from pcka.detection.config import ConfigError, config_differences, load_config
from pcka.detection.config_files import lookup
from pcka.files import check_writable, is_whole, read_json

# Where and how a run computes may change when it is resumed, what it computes may not. A name with
# a dot at its end stands for all keys below it.
MAY_CHANGE = (
    "CUDNN_BENCHMARK",
    "DATALOADER.NUM_WORKERS",
    "DATASETS.COCO_ROOT",
    "DATASETS.TEST",
    "MODEL.DEVICE",
    "MODEL.PCKA.GRADIENT_PERIOD",
    "MODEL.PCKA.PICTURE_PERIOD",
    "MODEL.PCKA.TEACHER.MIN_AP",
    "MODEL.PCKA.TEACHER.MIN_AP_IMAGES",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "SOLVER.AMP.",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.MAX_ITER",
    # Not TEST.PRECISE_BN, which writes statistics into the model.
    "TEST.AUG.",
    "TEST.DETECTIONS_PER_IMAGE",
    "TEST.EVAL_PERIOD",
    "TEST.EXPECTED_RESULTS",
    "TEST.KEYPOINT_OKS_SIGMAS",
    "VERSION",
    "VIS_PERIOD",
)
_LAST = "last_checkpoint"
BEST_WEIGHTS = "model_best.pth"  # the weights of the best evaluation, without what resuming needs


def check_output_dir(cfg: CfgNode, *, resume: bool) -> None:
    """Check that a run neither mixes with another one in its folder nor overwrites it.

    Raises:
        ConfigError: the folder holds a run that is not resumed, or one of another config, or no
            whole checkpoint to resume from.
    """
    folder = cfg.OUTPUT_DIR
    check_writable(folder, "OUTPUT_DIR")
    if not resume:
        _check_unused(folder)
    elif check_last_checkpoint(folder):
        _check_config(cfg)
        done = iterations_done(folder)
        if done > cfg.SOLVER.MAX_ITER:
            raise ConfigError(
                f"cannot resume {folder}: it has done {done} iterations, and SOLVER.MAX_ITER is "
                f"{cfg.SOLVER.MAX_ITER}: raise it, or evaluate with --eval-only"
            )


def is_finished(cfg: CfgNode) -> bool:
    """Return whether the folder holds this run with all its iterations and its summary."""
    try:
        summary = read_json(os.path.join(cfg.OUTPUT_DIR, "summary.json"))
    except ValueError:
        return False
    done = isinstance(summary, dict) and summary.get("iterations") == cfg.SOLVER.MAX_ITER
    return done and holds(cfg.OUTPUT_DIR, "model_final.pth")


def holds(folder: str, name: str) -> bool:
    """Return whether a folder has a file of this name that is not empty."""
    path = os.path.join(folder, name)
    return os.path.isfile(path) and os.path.getsize(path) > 0


def check_last_checkpoint(folder: str) -> bool:
    """Return whether there is a checkpoint to resume from.

    Raises:
        ConfigError: there are checkpoints, but the last one is not whole; names the newest that is.
    """
    checkpoints = [path for path in Path(folder).glob("model_*.pth") if path.name != BEST_WEIGHTS]
    checkpoints.sort(key=lambda path: path.stat().st_mtime)
    path = Path(folder, _LAST)
    if not checkpoints and not path.exists():
        return False
    try:
        name = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        name = ""
    if name and name == os.path.basename(name) and is_whole(Path(folder, name)):
        return True
    fault = (
        f"names {name!r}, which is missing or not whole" if name else "is missing or not readable"
    )
    whole = next((c.name for c in reversed(checkpoints) if is_whole(c)), None)
    remedy = (
        f"the newest whole checkpoint is {whole}: to go on from it, write its name into {path}"
        if whole
        else "no whole checkpoint is left: start again in another OUTPUT_DIR"
    )
    raise ConfigError(f"cannot resume {folder}: {_LAST} {fault}; {remedy}")


def iterations_done(folder: str) -> int:
    """Return the number of iterations in the last checkpoint, which is whole.

    Raises:
        ConfigError: the file holds something else than a run leaves.
    """
    path = Path(folder, Path(folder, _LAST).read_text(encoding="utf-8").strip())
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # a file of torch.save with content that is not read
        content = None
    parts = content if isinstance(content, dict) else {}
    done = parts.get("iteration", -1)
    if not all(isinstance(parts.get(key), dict) for key in ("model", "trainer")) or not (
        type(done) is int and done >= -1
    ):
        raise ConfigError(
            f"cannot resume {folder}: {path.name} is no checkpoint of a run, which holds model, "
            f"trainer and iteration: write the name of another one into {path.parent / _LAST}, or "
            "give it as MODEL.WEIGHTS in another OUTPUT_DIR"
        )
    return done + 1


def _check_unused(folder: str) -> None:
    names = os.listdir(folder) if os.path.isdir(folder) else ()
    marks = (_LAST, "summary.json")
    if any(n.endswith(".pth") or n in marks for n in names) or holds(folder, "metrics.json"):
        raise ConfigError(
            f"OUTPUT_DIR {folder} already holds a run: continue it with --resume, or set another "
            "OUTPUT_DIR"
        )
    # A start that failed leaves its config and its log; a config alone is a file of the user.
    own = [name for name in ("config.yaml", "student.yaml") if holds(folder, name)]
    if own and not holds(folder, "log.txt"):
        raise ConfigError(
            f"OUTPUT_DIR {folder} holds a {own[0]} that is not of a run and would be overwritten: "
            "set another OUTPUT_DIR"
        )


def _check_config(cfg: CfgNode) -> None:
    saved = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    if not holds(cfg.OUTPUT_DIR, "config.yaml"):
        raise ConfigError(
            f"cannot resume {cfg.OUTPUT_DIR}: its config.yaml is missing or empty, so that nothing "
            "says whether this is the same run: put it back, or set another OUTPUT_DIR"
        )
    try:
        before = load_config(saved)
    except ConfigError as error:
        raise ConfigError(
            f"cannot resume {cfg.OUTPUT_DIR}: its config.yaml is damaged, so that nothing says "
            f"whether this is the same run ({error}): put it back, or set another OUTPUT_DIR"
        ) from error
    changed = [
        f"{key} (was {_brief(before, key)}, is {_brief(cfg, key)})"
        for key in config_differences(before, cfg)
        if not any(key == k or (k.endswith(".") and key.startswith(k)) for k in MAY_CHANGE)
    ]
    if changed:
        raise ConfigError(
            f"cannot resume {cfg.OUTPUT_DIR}: it holds a run of another config. Different: "
            + ", ".join(changed)
            + f". Use its own {saved}, or set another OUTPUT_DIR"
        )


def _brief(cfg: CfgNode, key: str) -> str:
    return f"{json.dumps(lookup(cfg, key), default=str)}"[:60]
