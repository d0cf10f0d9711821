#!/usr/bin/env python3
"""Train or evaluate a detector, with or without a teacher.

tools/train_net.py --config-file configs/pcka_faster_rcnn.yaml [--num-gpus N] [--resume]
                   [--eval-only] [KEY VALUE ...]
"""

import os
import sys
import warnings

# Noise of detectron2 under newer torch and setuptools, at import.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*pkg_resources.*")

import torch  # noqa: E402
from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.engine import default_argument_parser, default_setup, launch  # noqa: E402
from detectron2.evaluation import verify_results  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402

from pcka.detection import ConfigError, Trainer, load_config, student_config  # noqa: E402
from pcka.detection.data import register_coco_json  # noqa: E402
from pcka.detection.preflight import check_run  # noqa: E402


def main(args):
    cfg = load_config(args.config_file, args.opts)
    register_coco_json(cfg)
    run_dir = cfg.OUTPUT_DIR
    if args.eval_only:  # the run's own config and logs stay as they are
        cfg.OUTPUT_DIR = os.path.join(run_dir, "eval")
    cfg.freeze()
    default_setup(cfg, args)
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
        verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = default_argument_parser(epilog=__doc__).parse_args()
    try:
        # Once, before any process is started or any folder made.
        check_run(
            load_config(arguments.config_file, arguments.opts),
            eval_only=arguments.eval_only,
            # On a shared disk, machine 0 may have begun to write.
            resume=arguments.resume or arguments.machine_rank > 0,
        )
        launch(
            main,
            arguments.num_gpus if torch.cuda.is_available() else 1,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except ConfigError as error:
        sys.exit(f"{os.path.basename(__file__)}: error: {error}")
