"""Train or evaluate a detector, with or without a teacher.

pcka train --config-file configs/pcka_faster_rcnn.yaml [--num-gpus N] [--resume]
           [--eval-only] [KEY VALUE ...]
torchrun --nproc-per-node N -m pcka.detection.train --config-file ...    (docs/cluster.md)

From a checkout, tools/train_net.py is the same command.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import HookBase, default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessExitedException

from pcka.cli import end_with, exit_status
from pcka.detection.checks.preflight import check_run
from pcka.detection.checks.run_folder import check_output_dir, is_finished
from pcka.detection.checks.student_weights import check_complete
from pcka.detection.checks.translation import refusing, report_once
from pcka.detection.config import load_config, student_config
from pcka.detection.config_terms import distils
from pcka.detection.data.coco_json import register_coco_json
from pcka.detection.data.folders import log_folders
from pcka.detection.engine.checkpointer import StudentCheckpointer
from pcka.detection.engine.processes import (
    check_processes,
    machine_and_turn,
    run_processes,
)
from pcka.detection.engine.trainer import Trainer
from pcka.errors import ConfigError, RunError
from pcka.run_lock import locked_folder

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
    args.num_gpus = args.num_gpus or 1  # 0 GPUs are one process
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
    if args.resume and not args.eval_only and is_finished(cfg):
        print(f"{cfg.OUTPUT_DIR} is finished: summary.json holds its results")
        return
    try:
        run_processes(work, args, cfg.MODEL.DEVICE)
    except ProcessExitedException as error:
        if error.exit_code == 2:  # the process has printed why
            raise SystemExit(2) from error
        raise RunError(str(error)) from error


def work(args: argparse.Namespace) -> None:
    """Train or evaluate in one process of the run."""
    if multiprocessing.parent_process() or dist.is_torchelastic_launched():
        end_with(os.getppid())
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
    # The first process writes for all of them.
    lock = locked_folder(cfg.OUTPUT_DIR) if comm.is_main_process() else nullcontext()
    with lock:
        if comm.is_main_process() and not args.eval_only:
            # Another run may have begun and ended since the first check.
            check_output_dir(cfg, resume=args.resume)
        _run_locked(cfg, args, run_dir)


def _run_locked(cfg: CfgNode, args: argparse.Namespace, run_dir: str) -> None:
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="pcka")
    log_folders(cfg)
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
    report_once()
    with refusing("the student of this config cannot be built"):
        model = build_model(student_config(cfg))
    checkpointer = StudentCheckpointer(model, save_dir=run_dir)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    check_complete(checkpointer.incompatible, cfg.MODEL.WEIGHTS or run_dir)
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
