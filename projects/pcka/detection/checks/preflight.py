"""Checks of a run before a model is built: config, data, weights, device and output folder."""

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from pcka.detection.config import META_ARCHITECTURE, ConfigError
from pcka.detection.config_terms import distils
from pcka.detection.data.coco_json import check_datasets, register_coco_json
from pcka.detection.engine.precision import step_dtype
from pcka.detection.modeling.teacher_source import teacher_source
from pcka.detection.modeling.weights import fetch

from .run_folder import check_last_checkpoint, check_output_dir
from .values import check_values

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
    wrong = check_values(cfg)
    if wrong:
        raise ConfigError("; ".join(wrong))
    step_dtype(cfg)
    distilling = not eval_only and distils(cfg) and teacher
    if not eval_only:
        check_output_dir(cfg, resume=resume)
    elif not (resume and check_last_checkpoint(cfg.OUTPUT_DIR)) and not cfg.MODEL.WEIGHTS:
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
    elif cfg.MODEL.DEVICE != "cpu":
        problems += _check_device(cfg.MODEL.DEVICE)
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
        if len(problems) == 1:
            raise ConfigError(f"this run cannot start: {problems[0]}")
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigError(f"this run cannot start:\n{lines}\n{_DEMO}")


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


def _check_device(device: str) -> list[str]:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        return [f"MODEL.DEVICE {device!r} cannot be used: {reason}: set MODEL.DEVICE cpu"]
    return []


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
