"""Several training steps handed to the GPU as one CUDA graph.

The step of a small network is hundreds of kernels of a few microseconds, and the host cannot start
them as fast as the card runs them. A CUDA graph is recorded once and started by one call. All that
changes from step to step lies in static tensors: the numbers of the images, the draws of their
augmentation and the learning rates. Weights, optimiser and sums of the losses change in place.

The same function is recorded and called directly, so both give the same steps.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pcka.core import DistillTerms

from .config_sections import TrainConfig
from .data import Loader
from .data.tensors import TensorTrainLoader
from .processes import Process

logger = logging.getLogger("classification")

STEPS = 4  # of a graph; more gain little, and a graph of the rest of an epoch serves only once
_WARM_UP = 2  # direct calls before capture: cuDNN chooses, the optimiser makes its state

Body = Callable[[], None]
Replay = Callable[[], object]


class Training(Protocol):
    """The interface of a training. Steps are counted from the beginning of the run."""

    def take(
        self, images: Tensor, labels: Tensor, rates: Tensor, step: int, *, draws: bool
    ) -> None:
        """Train steps on the device alone: no wait for it, nothing counted on the host.

        Args:
            images, labels: ``(S B, 3, H, W)`` and ``(S B,)``, of S steps one after the other.
            rates: ``(S,)``.
            step: the first.
            draws: whether each step has to begin with its own seed.
        """

    def count(self, steps: int) -> None:
        """Count steps that were taken."""

    def rate(self, step: int) -> float:
        """Return the learning rate."""

    def weights(self, step: int) -> tuple[float, ...]:
        """Return the weights of the terms: numbers in a graph, so other weights need another."""

    def seed(self, step: int) -> int:
        """Return the seed of what a step draws, such as dropout."""

    def alone(self, step: int) -> bool:
        """Return whether the host has a part in a step, which is then not captured."""


def why_not(
    train: TrainConfig, loader: Loader, terms: DistillTerms | None, process: Process
) -> str | None:
    """Return why the steps of a run cannot be captured; None if nothing is known to forbid it."""
    if not train.cuda_graph:
        return "train.cuda_graph is false"
    if process.device.type != "cuda":
        return f"the device is {process.device.type}"
    return what_forbids(train, loader, terms, process)


def what_forbids(
    train: TrainConfig, loader: Loader, terms: DistillTerms | None, process: Process
) -> str | None:
    """Return what in a run cannot be captured on any device; None if nothing is known to."""
    if process.world_size > 1:
        return "several processes train together"
    if not isinstance(loader, TensorTrainLoader):
        return "the images are read from disk"
    if train.amp == "fp16":
        return "train.amp is fp16, which skips steps; bf16 does not"
    for key, pair in terms.pairings.items() if terms is not None else ():
        if pair.schedule.kind != "constant" or pair.schedule.warmup:
            return f"the weight of the term {key} changes from step to step by its schedule"
    return None


class CapturedSteps:
    """Trains epochs by graphs of up to ``steps`` steps.

    Args:
        loader: the training images, on the device.
        training: the work of each step.
        steps: the number of steps in one graph.
    """

    def __init__(self, loader: TensorTrainLoader, training: Training, steps: int = STEPS):
        self.loader, self.training, self.steps = loader, training, steps
        self.device = loader.images.device
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.captures = True  # until a capture fails
        self.draws: bool | None = None  # whether a step draws random numbers; unknown at first
        self._uses: Counter[tuple] = Counter()
        self._inputs: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._replays: dict[tuple, Replay] = {}

    def epoch(self, index: int, first_batch: int = 0) -> Iterator[int]:
        """Train epoch ``index`` from ``first_batch`` on; yield the number of steps of each call."""
        plan, spans = self.loader.plan(index), self.loader.spans
        before = index * len(spans)
        # SGD on a CPU turns a rate into a number again, which has to be as wide as it was.
        dtype = torch.float64 if self.device.type == "cpu" else torch.float32
        numbers = [self.training.rate(before + batch) for batch in range(len(spans))]
        rates = self.loader.to_device(torch.tensor(numbers, dtype=dtype))
        batch = first_batch
        while batch < len(spans):
            steps = self._group(before + batch, batch, spans[batch : batch + self.steps])
            start, stop = spans[batch][0], spans[batch + steps - 1][1]
            self._run(before + batch, plan[:, start:stop], rates[batch : batch + steps])
            batch += steps
            yield steps

    def _group(self, step: int, batch: int, spans: Sequence[tuple[int, int]]) -> int:
        """Return how many steps to take at once from ``step`` on.

        A graph draws from one seed while each step has a seed of its own, so steps that draw go one
        by one. Groups begin at multiples of their size, whatever step a run is resumed at.

        Args:
            step: the next step, counted over the run.
            batch: the same step, counted over the epoch.
            spans: the next batches'.
        """
        training, steps = self.training, range(step, step + len(spans))
        alike = (
            not self.draws
            and batch % self.steps == 0
            and len(spans) == self.steps
            and len({stop - start for start, stop in spans}) == 1
            and not any(training.alone(s) for s in steps)
            and len({training.weights(s) for s in steps}) == 1
        )
        return len(spans) if alike else 1

    def _run(self, step: int, rows: Tensor, rates: Tensor) -> None:
        """Take the steps of ``rows`` ``(4, steps B)``: replay them, or call them directly."""
        size, steps = rows.shape[1], len(rates)
        if (size, steps) not in self._inputs:
            self._inputs[size, steps] = rows.clone(), rates.clone()
        inputs = self._inputs[size, steps]
        inputs[0].copy_(rows)
        inputs[1].copy_(rates)
        key = size, steps, self.training.weights(step)
        if self.training.alone(step):
            self._call(step, inputs)
        elif self._recorded(key, step, inputs):
            if self.draws:
                torch.manual_seed(self.training.seed(step))
            self._replays[key]()
        else:
            self._uses[key] += 1
            self._call(step, inputs)
        self.training.count(steps)

    def _call(self, step: int, inputs: tuple[Tensor, Tensor]) -> None:
        """Call the steps; on a GPU on the stream of the captures, so that it is warmed up."""
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self._take(step, inputs, draws=self.draws is not False)
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        if self.draws is None:
            after = self._random_state()
            torch.manual_seed(self.training.seed(step + len(inputs[1]) - 1))
            self.draws = not torch.equal(after, self._random_state())

    def _take(self, step: int, inputs: tuple[Tensor, Tensor], *, draws: bool) -> None:
        images, labels = self.loader.batch(inputs[0])
        self.training.take(images, labels, inputs[1], step, draws=draws)

    def _recorded(self, key: tuple, step: int, inputs: tuple[Tensor, Tensor]) -> bool:
        """Return whether there is a graph for ``key``; record it once its steps are warmed up."""
        if key in self._replays:
            return True
        if not self.captures or self._uses[key] < _WARM_UP:
            return False

        try:
            self._replays[key] = self._capture(lambda: self._take(step, inputs, draws=False))
        except RuntimeError as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            logger.warning("no more steps are captured as CUDA graphs: %s", reason)
            self.captures = False
        return key in self._replays

    def _capture(self, body: Body) -> Replay:
        graph = torch.cuda.CUDAGraph()
        # Only this thread may break the capture: TensorBoard writes in another.
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            body()
        return graph.replay

    def _random_state(self) -> Tensor:
        if self.device.type == "cuda":
            return torch.cuda.get_rng_state(self.device)
        return torch.get_rng_state()
