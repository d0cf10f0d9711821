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
        self.sums: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Begin anew; the sums stay where they are, since CUDA graphs add to them in place."""
        for value in self.sums.values():
            value.zero_()
        self.steps = 0
        self.seconds = 0.0
        self._earlier: tuple[int, int, Tensor, torch.cuda.Event] | None = None

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take the losses of one step, scalars without gradient."""
        self.add_values(losses)
        self.steps += 1

    def add_values(self, losses: dict[str, Tensor]) -> None:
        """Add the losses of one step without counting it."""
        for name, value in losses.items():
            if name in self.sums:
                self.sums[name].add_(value)
            else:
                self.sums[name] = value.clone()

    def check_finite(self, step: int) -> float:
        """The mean of the total loss; asked rarely, since a GPU is waited for.

        Raises:
            FloatingPointError: a loss that is not finite, by name.
        """
        return self._mean_total(torch.stack([*self.sums.values()]), self.steps, step)

    def look(self, step: int) -> float | None:
        """Check the losses as :meth:`check_finite` does, but without waiting for a GPU.

        On a GPU these are the losses of the look before, if there was one since :meth:`reset`.
        """
        values = torch.stack([*self.sums.values()])
        if not values.is_cuda:
            return self._mean_total(values, self.steps, step)
        copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        copy.copy_(values, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        earlier, self._earlier = self._earlier, (step, self.steps, copy, copied)
        if earlier is None:
            return None
        step, steps, copy, copied = earlier
        copied.synchronize()
        return self._mean_total(copy, steps, step)

    def _mean_total(self, sums: Tensor, steps: int, step: int) -> float:
        values = sums.tolist()
        broken = [n for n, v in zip(self.sums, values, strict=True) if not math.isfinite(v)]
        if broken:
            raise FloatingPointError(
                f"not finite by step {step}: {', '.join(broken)}. Lower train.lr or the weight of "
                "that term, set train.clip_grad_norm, look for damaged images; the last "
                "checkpoint is from before"
            )
        return sum(values) / steps

    def means(self, process: Process) -> dict[str, float]:
        """Return the mean of every loss over the steps of all processes; nothing without a step."""
        if not self.steps or not self.sums:
            return {}
        names = sorted(self.sums)
        sums = process.sum(torch.stack([self.sums[name] for name in names]))
        means = (sums / (self.steps * process.world_size)).tolist()
        return dict(zip(names, means, strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "steps": self.steps, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.steps, self.seconds = state["sums"], state["steps"], state["seconds"]
