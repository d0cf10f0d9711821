"""Train or evaluate a detector, with or without a teacher.

pcka train --config-file configs/pcka_faster_rcnn.yaml [--num-gpus N] [--resume]
           [--eval-only] [KEY VALUE ...]
torchrun --nproc-per-node N -m pcka.detection.train --config-file ...    (docs/cluster.md)

From a checkout, tools/train_net.py is the same command.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

# Noise of detectron2 under newer torch and setuptools, at import and in DDP.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*pkg_resources.*")
warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)

import torch  # noqa: E402
from detectron2.config import CfgNode  # noqa: E402
from detectron2.engine import default_argument_parser, default_setup  # noqa: E402
from detectron2.evaluation import verify_results  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.utils import comm  # noqa: E402
from detectron2.utils.logger import setup_logger  # noqa: E402
from torch.multiprocessing import ProcessExitedException  # noqa: E402

from pcka.cli import exit_status  # noqa: E402
from pcka.detection.checks.preflight import check_run  # noqa: E402
from pcka.detection.config import load_config, student_config  # noqa: E402
from pcka.detection.config_terms import distils  # noqa: E402
from pcka.detection.data.coco_json import register_coco_json  # noqa: E402
from pcka.detection.engine.checkpointer import StudentCheckpointer  # noqa: E402
from pcka.detection.engine.processes import (  # noqa: E402
    check_processes,
    machine_and_turn,
    run_processes,
)
from pcka.detection.engine.trainer import Trainer  # noqa: E402
from pcka.errors import ConfigError, RunError  # noqa: E402

PROGRAM = "train_net.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
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
    trainer = Trainer(cfg)
    add_pictures(trainer, cfg)
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


def add_pictures(trainer: Trainer, cfg: CfgNode) -> None:
    """Register the hook that draws pictures during training, if MODEL.PCKA.PICTURE_PERIOD asks.

    It is imported on request: training needs neither matplotlib nor the experiments.
    """
    period = cfg.MODEL.PCKA.PICTURE_PERIOD
    if period <= 0 or not distils(cfg) or not cfg.DATASETS.TEST or not comm.is_main_process():
        return
    try:
        from pcka.experiments.detection.picture_hook import PictureHook
    except ImportError as error:
        raise ConfigError(
            f"MODEL.PCKA.PICTURE_PERIOD {period} draws by pcka.experiments, which cannot be "
            f"imported ({error}): set it to 0"
        ) from error
    trainer.register_hooks([PictureHook(period)])
    # First, so that the pictures are in the storage when the writers run.
    trainer._hooks.insert(0, trainer._hooks.pop())


if __name__ == "__main__":
    sys.exit(main())
