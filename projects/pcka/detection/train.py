"""Train or evaluate a detector, with or without a teacher.

pcka train --config-file configs/pcka_faster_rcnn.yaml [--num-gpus N] [--resume]
           [--eval-only] [KEY VALUE ...]
torchrun --nproc-per-node N -m pcka.detection.train --config-file ...    (docs/cluster.md)

From a checkout, tools/train_net.py is the same command.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from pcka.cli import exit_status
from pcka.detection.checks.preflight import check_run
from pcka.detection.config import load_config, student_config
from pcka.detection.config_terms import distils
from pcka.detection.data.coco_json import register_coco_json
from pcka.detection.engine.checkpointer import StudentCheckpointer
from pcka.detection.engine.processes import (
    check_processes,
    machine_and_turn,
    run_processes,
)
from pcka.detection.engine.trainer import Trainer
from pcka.errors import ConfigError, RunError

PROGRAM = "train_net.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; None takes those of the command line.

    Returns:
        The exit status: 0, 1 for a run that failed, 2 for wrong use, 130 for Ctrl-C.
    """
    args = default_argument_parser(epilog=__doc__).parse_args(argv)
    stopped = "stopped; --resume continues this run"
    return exit_status(PROGRAM, lambda: start(args), stopped=stopped)


def start(args: argparse.Namespace) -> None:
    """Check the run, then start its processes.

    Raises:
        ConfigError: what keeps the run from starting, before any folder is made.
        RunError: a process that failed.
    """
    cfg = load_config(args.config_file, args.opts)
    check_processes(cfg, args)
    machine, turn = machine_and_turn(args)
    if turn == 0:  # once on every machine
        check_run(
            cfg,
            eval_only=args.eval_only,
            # On a shared disk, machine 0 may have begun to write.
            resume=args.resume or machine > 0,
        )
    try:
        run_processes(work, args, cfg.MODEL.DEVICE)
    except ProcessExitedException as error:
        if error.exit_code == 2:  # the process has printed why
            raise SystemExit(2) from error
        raise RunError(str(error)) from error


def work(args: argparse.Namespace) -> None:
    """Train or evaluate in one process of the run."""
    if comm.get_world_size() == 1:
        run(args)
        return
    # In a process of its own the launcher would print a traceback.
    status = exit_status(PROGRAM, lambda: run(args))
    if status:
        sys.exit(status)


def run(args: argparse.Namespace) -> None:
    """Train, resume or evaluate as the arguments say."""
    cfg = load_config(args.config_file, args.opts)
    register_coco_json(cfg)
    run_dir = cfg.OUTPUT_DIR
    if args.eval_only:  # the run's own config and logs stay as they are
        cfg.OUTPUT_DIR = os.path.join(run_dir, "eval")
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="pcka")
    if cfg.MODEL.DEVICE == "cpu":
        # From scratch, activations decay into denormals, which CPUs compute very slowly.
        torch.set_flush_denormal(True)
    if args.eval_only:
        evaluate(cfg, run_dir, resume=args.resume)
        return
    trainer = Trainer(cfg, hooks=picture_hooks(cfg))
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def evaluate(cfg: CfgNode, run_dir: str, *, resume: bool) -> None:
    """Evaluate the student alone; no teacher is needed."""
    model = build_model(student_config(cfg))
    checkpointer = StudentCheckpointer(model, save_dir=run_dir)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)


def picture_hooks(cfg: CfgNode) -> list[HookBase]:
    """Return the hook that MODEL.PCKA.PICTURE_PERIOD asks for, in the process that draws.

    Raises:
        ConfigError: pictures are asked for, but what draws them is not installed.
    """
    period = cfg.MODEL.PCKA.PICTURE_PERIOD
    if period <= 0 or not cfg.DATASETS.TEST or not distils(cfg) or not comm.is_main_process():
        return []
    try:
        # Imported lazily: training itself needs neither pcka.experiments nor matplotlib.
        from pcka.experiments.detection.picture_hook import PictureHook
    except ImportError as error:
        raise ConfigError(
            f"MODEL.PCKA.PICTURE_PERIOD {period} needs pcka.experiments and matplotlib, which "
            f"cannot be imported ({error}): install them, or set MODEL.PCKA.PICTURE_PERIOD 0"
        ) from error
    return [PictureHook(period)]


if __name__ == "__main__":
    sys.exit(main())
