"""Checks of a run before a model is built: config, data, weights, device and output folder."""

import os

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from pcka.detection.config import META_ARCHITECTURE, ConfigError, config_differences, load_config
from pcka.detection.config_terms import distils
from pcka.detection.data.coco_json import check_datasets, register_coco_json
from pcka.detection.engine.precision import step_dtype
from pcka.detection.modeling.teacher_source import teacher_source
from pcka.detection.modeling.weights import fetch

_DEMO = "To see it run without any of this: make demo"


def check_run(
    cfg: CfgNode, *, eval_only: bool = False, resume: bool = False, teacher: bool = True
) -> None:
    """Check a run, cheap checks first.

    Args:
        cfg: the config of the run.
        eval_only: whether the student is evaluated only.
        resume: whether a run in the output folder is continued.
        teacher: False where the teacher is still to be trained.

    Raises:
        ConfigError: lists all problems that were found, each with its remedy.
    """
    check_meta_architecture(cfg)
    step_dtype(cfg)
    distilling = not eval_only and distils(cfg) and teacher
    if not eval_only:
        check_output_dir(cfg, resume=resume)
    elif not cfg.MODEL.WEIGHTS and not (resume and _has(cfg.OUTPUT_DIR, "last_checkpoint")):
        raise ConfigError(
            "--eval-only without weights would measure random ones: set MODEL.WEIGHTS to a "
            "checkpoint, or add --resume to take the last one of OUTPUT_DIR"
        )
    register_coco_json(cfg)
    datasets = [*cfg.DATASETS.TEST, *(() if eval_only else cfg.DATASETS.TRAIN)]
    if not datasets or not (eval_only or cfg.DATASETS.TRAIN):
        raise ConfigError("DATASETS.TRAIN or DATASETS.TEST is empty: name a data set")
    problems = []
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        problems.append(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r} but torch sees no GPU: set MODEL.DEVICE cpu, "
            "or install a torch build for your GPU"
        )
    problems += check_datasets(cfg, list(dict.fromkeys(datasets)))
    wanted = [(cfg.MODEL.WEIGHTS, "the student's weights (MODEL.WEIGHTS)")]
    if distilling:
        try:
            weights = teacher_source(cfg).weights
            wanted.append((weights, "the teacher's weights (MODEL.PCKA.TEACHER.WEIGHTS)"))
        except ConfigError as error:
            problems.append(str(error))
    problems += _check_min_ap(cfg) if distilling else []
    for path, what in wanted:
        # After another problem nothing is downloaded, but local files are still checked.
        if path and not (problems and "://" in path):
            try:
                fetch(path, what)
            except ConfigError as error:
                problems.append(str(error))
        elif path:
            problems.append(f"{what}: will be fetched from {path}, which needs network")
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigError(f"this run cannot start:\n{lines}\n{_DEMO}")


def check_output_dir(cfg: CfgNode, *, resume: bool) -> None:
    """Check that a new run neither mixes with another one in its output folder nor overwrites it.

    Raises:
        ConfigError: the folder holds a run that is not resumed, or one of another model.
    """
    folder = cfg.OUTPUT_DIR
    _check_writable(folder)
    holds_run = any(
        name.endswith(".pth") or name in ("last_checkpoint", "summary.json")
        for name in (os.listdir(folder) if os.path.isdir(folder) else ())
    ) or _has(folder, "metrics.json")
    if not resume:
        if holds_run:
            raise ConfigError(
                f"OUTPUT_DIR {folder} already holds a run: continue it with --resume, or set "
                "another OUTPUT_DIR"
            )
        # A start that failed leaves its config and its log; a config alone is a file of the user.
        own = [name for name in ("config.yaml", "student.yaml") if _has(folder, name)]
        if own and not _has(folder, "log.txt"):
            raise ConfigError(
                f"OUTPUT_DIR {folder} holds a {own[0]} that is not of a run and would be "
                "overwritten: set another OUTPUT_DIR"
            )
    elif _has(folder, "last_checkpoint") and _has(folder, "config.yaml"):
        saved = os.path.join(folder, "config.yaml")
        changed = [
            key
            for key in config_differences(load_config(saved), cfg)
            if key.startswith("MODEL.") and key not in ("MODEL.DEVICE", "MODEL.WEIGHTS")
        ]
        if changed:
            raise ConfigError(
                f"cannot resume {folder}: it holds a run of another model. Different: "
                + ", ".join(changed)
                + f". Use its own {saved}, or set another OUTPUT_DIR"
            )


def check_meta_architecture(cfg: CfgNode) -> None:
    """Raise ConfigError for an architecture that is not registered, or one that ignores terms."""
    key, name = "MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE
    if name != META_ARCHITECTURE and cfg.MODEL.PCKA.TERMS and cfg.MODEL.PCKA.LOSS_WEIGHT:
        raise ConfigError(
            f"MODEL.PCKA.TERMS are set but MODEL.META_ARCHITECTURE is {name!r}, which knows no "
            f"teacher: set it to {META_ARCHITECTURE!r} and "
            f"MODEL.PCKA.STUDENT_META_ARCHITECTURE to {name!r}, or MODEL.PCKA.LOSS_WEIGHT to 0"
        )
    if name == META_ARCHITECTURE:
        key, name = "MODEL.PCKA.STUDENT_META_ARCHITECTURE", cfg.MODEL.PCKA.STUDENT_META_ARCHITECTURE
    known = sorted(k for k, _ in META_ARCH_REGISTRY if k != META_ARCHITECTURE)
    if name not in known:
        raise ConfigError(f"{key} {name!r} is not registered: one of {', '.join(known)}")


def _check_min_ap(cfg: CfgNode) -> list[str]:
    teacher = cfg.MODEL.PCKA.TEACHER
    problems = []
    if not 0 <= teacher.MIN_AP <= 100:
        problems.append(f"MODEL.PCKA.TEACHER.MIN_AP is in percent, got {teacher.MIN_AP}")
    if teacher.MIN_AP_IMAGES < 1:
        problems.append(
            f"MODEL.PCKA.TEACHER.MIN_AP_IMAGES is 1 or more, got {teacher.MIN_AP_IMAGES}"
        )
    if teacher.MIN_AP and not cfg.DATASETS.TEST:
        problems.append(
            "MODEL.PCKA.TEACHER.MIN_AP is measured on DATASETS.TEST[0], which is empty: name a "
            "data set, or set MIN_AP to 0"
        )
    return problems


def _has(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    return os.path.isfile(path) and os.path.getsize(path) > 0


def _check_writable(folder: str) -> None:
    parent = os.path.abspath(folder)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
        raise ConfigError(
            f"OUTPUT_DIR {folder} cannot be written ({parent} is no folder that you may write to): "
            "set another OUTPUT_DIR"
        )
