"""Everything that can be known to go wrong before a model is built."""

import os

import torch
from detectron2.config import CfgNode

from .config import ConfigError, config_differences, distils, load_config
from .data import check_datasets, register_coco_json
from .files import fetch
from .teacher import teacher_config

_DEMO = "To see it run without any of this: make demo"


def check_run(
    cfg: CfgNode, *, eval_only: bool = False, resume: bool = False, teacher: bool = True
) -> None:
    """Check config, data, weights, device and output folder; cheap checks first.

    Args:
        teacher: False where the teacher is still to be trained.

    Raises:
        ConfigError: every problem that was found, each with its remedy.
    """
    distilling = not eval_only and distils(cfg) and teacher
    if not eval_only:
        check_output_dir(cfg, resume=resume)
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
            wanted.append((teacher_config(cfg).MODEL.WEIGHTS, "the teacher's weights "
                           "(MODEL.PCKA.TEACHER.WEIGHTS)"))  # fmt: skip
        except ConfigError as error:
            problems.append(str(error))
    for path, what in wanted:
        # With the data missing there is no point in a download; a local path costs nothing.
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
    """An output folder holds one run: a second one neither mixes with it nor overwrites it.

    Raises:
        ConfigError: a run is there and this is no resume, or it is a resume of another model.
    """
    saved = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    if os.path.exists(cfg.OUTPUT_DIR) and not os.path.isdir(cfg.OUTPUT_DIR):
        raise ConfigError(f"OUTPUT_DIR {cfg.OUTPUT_DIR} is a file: set another OUTPUT_DIR")
    trained = any(
        os.path.exists(os.path.join(cfg.OUTPUT_DIR, name))
        for name in ("last_checkpoint", "metrics.json")
    )
    if not trained:
        return
    if not resume:
        raise ConfigError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} already holds a run: continue it with --resume, or set "
            "another OUTPUT_DIR"
        )
    if os.path.exists(saved):
        changed = [
            key
            for key in config_differences(load_config(saved), cfg)
            if key.startswith("MODEL.") and key != "MODEL.DEVICE"
        ]
        if changed:
            raise ConfigError(
                f"cannot resume {cfg.OUTPUT_DIR}: it holds a run of another model. Different: "
                + ", ".join(changed)
                + f". Use its own {saved}, or set another OUTPUT_DIR"
            )
