"""Figures of the steps of one epoch, summed where they are computed, and the time they took."""

import math
from typing import Any

import torch
from torch import Tensor

from .processes import Process


class LossMeter:
    """Means of named losses over the steps since :meth:`reset`.

    ``seconds`` is for the caller to fill. The state makes part of a checkpoint, so that the means
    of an epoch that was interrupted are those of the whole epoch.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.seconds = 0.0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take the losses of one step, scalars without gradient."""
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1

    def check_finite(self, step: int) -> float:
        """The mean of the total loss; asked rarely, since a GPU is waited for.

        Raises:
            FloatingPointError: a loss that is not finite, by name.
        """
        values = torch.stack([*self.sums.values()]).tolist()
        broken = [n for n, v in zip(self.sums, values, strict=True) if not math.isfinite(v)]
        if broken:
            raise FloatingPointError(
                f"not finite by step {step}: {', '.join(broken)}. Lower train.lr or the weight of "
                "that term, set train.clip_grad_norm, look for damaged images; the last "
                "checkpoint is from before"
            )
        return sum(values) / self.steps

    def means(self, process: Process) -> dict[str, float]:
        """Of every loss, over the steps of all processes; nothing without a step."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        sums = process.sum(torch.stack([self.sums[name] for name in names]))
        means = (sums / (self.steps * process.world_size)).tolist()
        return dict(zip(names, means, strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "steps": self.steps, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.steps, self.seconds = state["sums"], state["steps"], state["seconds"]
