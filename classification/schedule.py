"""The learning rate as a function of the step, so that a resumed run needs no state of it."""

import math
from bisect import bisect_right

from .config_sections import TrainConfig


def learning_rate(cfg: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate at step ``step``, counted from 0.

    A linear warm-up reaches the schedule's value at its end; milestones count in epochs; the cosine
    ends at 0 after the last step.
    """
    epoch = step / steps_per_epoch
    if cfg.schedule == "cosine":
        rate = cfg.lr * (1 + math.cos(math.pi * epoch / cfg.epochs)) / 2
    else:
        rate = cfg.lr * cfg.gamma ** bisect_right(cfg.milestones, epoch)
    if epoch < cfg.warmup_epochs:
        rate *= (step + 1) / (cfg.warmup_epochs * steps_per_epoch)
    return rate
