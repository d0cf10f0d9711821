#!/usr/bin/env python3
"""Train or evaluate a detector, with or without a teacher.

tools/train_net.py --config-file configs/pcka_faster_rcnn.yaml [--num-gpus N] [--resume]
                   [--eval-only] [KEY VALUE ...]
torchrun --nproc-per-node N tools/train_net.py --config-file ...    (docs/cluster.md)
"""

import os
import sys
import warnings

# Noise of detectron2 under newer torch and setuptools, at import and in DDP.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*pkg_resources.*")
warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)

import torch  # noqa: E402
from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.engine import default_argument_parser, default_setup  # noqa: E402
from detectron2.evaluation import verify_results  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.utils import comm  # noqa: E402
from detectron2.utils.logger import setup_logger  # noqa: E402
from torch.multiprocessing import ProcessExitedException  # noqa: E402

from pcka.detection import ConfigError, Trainer, load_config, student_config  # noqa: E402
from pcka.detection.checks.preflight import check_run  # noqa: E402
from pcka.detection.data.coco_json import register_coco_json  # noqa: E402
from pcka.detection.engine.processes import check_processes, machine_and_turn, run_processes  # noqa: E402


def main(args):
    try:
        run(args)
    except ConfigError as error:  # here, where the launcher would print a traceback
        stop(error)


def run(args):
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
        plain = student_config(cfg)  # needs no teacher
        model = build_model(plain)
        DetectionCheckpointer(model, save_dir=run_dir).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def stop(error):
    sys.exit(f"{os.path.basename(__file__)}: error: {error}")


if __name__ == "__main__":
    arguments = default_argument_parser(epilog=__doc__).parse_args()
    try:
        config = load_config(arguments.config_file, arguments.opts)
        check_processes(config, arguments)
        machine, turn = machine_and_turn(arguments)
        if turn == 0:  # once on every machine, before any folder is made
            check_run(
                config,
                eval_only=arguments.eval_only,
                # On a shared disk, machine 0 may have begun to write.
                resume=arguments.resume or machine > 0,
            )
        run_processes(main, arguments, config.MODEL.DEVICE)
    except (ConfigError, ProcessExitedException) as error:
        stop(error)
