"""A training as tools/train_net.py runs it, in this process."""

import os

from detectron2.engine import default_setup

from pcka.detection import Trainer
from pcka.detection.train import picture_hooks


def train(cfg, resume=False):
    class Arguments:
        eval_only = False

    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    default_setup(cfg, Arguments)
    trainer = Trainer(cfg, hooks=picture_hooks(cfg))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer
