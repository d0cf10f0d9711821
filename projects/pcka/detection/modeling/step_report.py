"""The losses of a step on the host: checked and logged without stopping a GPU."""

from collections.abc import Callable, Mapping

import torch
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor


class StepReport:
    """Losses on their way to the host, and what is logged of them once they are there.

    Args:
        losses: the scalars of one step; the copy starts at once and nothing waits for it.
        scalars: returns what to log, from the losses as numbers.
        figures: scalars that are logged as they are, those of the step before.
    """

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        scalars: Callable[[dict[str, float]], Mapping[str, float]],
        figures: Mapping[str, Tensor] | None = None,
    ):
        self.names, self.scalars = list(losses), scalars
        self.figures = list(figures or {})
        self.storage: EventStorage = get_event_storage()
        self.iteration = self.storage.iter
        # Stacked, all losses come from the device in one transfer.
        every = [*losses.values(), *(figures or {}).values()]
        stacked = torch.stack([value.detach().float() for value in every])
        self.values = stacked.to("cpu", non_blocking=True)
        self.arrived = None
        if stacked.is_cuda:
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def finish(self) -> None:
        """Wait for the losses, check and log them.

        Raises:
            FloatingPointError: a loss that is not finite; the message names it.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        numbers = self.values.tolist()
        values = dict(zip(self.names, numbers, strict=False))  # the figures come after the losses
        figures = dict(zip(self.figures, numbers[len(values) :], strict=True))
        broken = {name: value for name, value in values.items() if not abs(value) < float("inf")}
        if broken:
            raise FloatingPointError(
                f"iteration {self.iteration}: loss is not finite: {broken} (all losses: {values}). "
                "Lower SOLVER.BASE_LR or the weight of that term, or clip gradients "
                "(SOLVER.CLIP_GRADIENTS)"
            )
        scalars = {**figures, **self.scalars(values)}
        self.storage.put_scalars(**scalars, smoothing_hint=False)
