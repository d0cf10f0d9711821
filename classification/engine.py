"""The training loop: from any step of a run to its end, the same way each time.

A step depends on the weights, the optimiser and its own number alone: images, augmentation, dropout
and learning rate are functions of (seed, step). So a run that is killed and resumed from its last
checkpoint ends, on a CPU, in the same bits as one that was not.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pcka.core import loss_shares
from pcka.core.schedules import progress_at
from pcka.files import write_json

from .captured_steps import CapturedSteps, why_not
from .config import Config, to_dict
from .data import Data
from .data.batches import seed_of
from .data.tensors import TensorTrainLoader
from .distiller import Distiller
from .evaluate import evaluate
from .meter import LossMeter
from .processes import Process
from .records import (
    CHECKPOINT,
    METRICS,
    STUDENT,
    STUDENT_BEST,
    STUDENT_EMA,
    SUMMARY,
    save_weights,
    summarize,
    write_metrics,
)
from .schedule import learning_rate
from .snapshot import load_snapshot, save_snapshot
from .update import Update

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger("classification")


class Engine:
    """Trains ``distiller`` as ``cfg`` says and leaves checkpoints, metrics and a summary.

    Args:
        cfg: the run.
        data: its images.
        distiller: on the process's device.
        process: this process among all.
        folder: the folder of the run.
        hooks: called after every evaluation, in the process that writes, with the engine, the
            number of the epoch and TensorBoard's writer.
    """

    def __init__(
        self,
        cfg: Config,
        data: Data,
        distiller: Distiller,
        process: Process,
        folder: Path,
        hooks: Sequence[Callable[["Engine", int, "SummaryWriter"], None]] = (),
    ):
        self.hooks = hooks
        self.cfg, self.data, self.process, self.folder = cfg, data, process, folder
        self.distiller, self.student = distiller, distiller.student
        train = cfg.train
        if train.channels_last:
            distiller.channels_last()
        self.update = Update(train, distiller, process.device)
        if train.compile:
            distiller.compile()
        self.meter = LossMeter()
        self.gradients = LossMeter()  # of the steps that measured them
        self.balance = LossMeter()  # what a ratio as weight amounts to
        self.step = 0  # the next one
        self.history: list[dict[str, float]] = []  # a row for every evaluation
        self.captured: CapturedSteps | None = None
        reason = why_not(train, data.train, distiller.distill, process)
        if reason is None:
            assert isinstance(data.train, TensorTrainLoader)
            self.captured = CapturedSteps(data.train, self)
            logger.info("steps are captured as CUDA graphs, up to %d in one", self.captured.steps)
        else:
            logger.info("steps are not captured as CUDA graphs: %s", reason)

    @property
    def steps(self) -> int:
        """The number of steps of the whole run."""
        return self.cfg.train.epochs * len(self.data.train)

    def train(self) -> dict[str, Any]:
        """Train from where the run is to its end; returns the summary."""
        train, per_epoch = self.cfg.train, len(self.data.train)
        model: nn.Module = self.distiller
        if self.process.world_size > 1:
            place = [self.process.device] if self.process.device.type == "cuda" else None
            # Without the cross-entropy, terms on early features leave the later layers unused.
            model = DistributedDataParallel(
                model, device_ids=place, find_unused_parameters=not self.cfg.ce_weight
            )
        writer = None
        if self.process.is_main:
            # Imported lazily: TensorBoard is slow to import, and evaluation does not need it.
            from torch.utils.tensorboard import SummaryWriter

            # The row of the step that was checkpointed is kept, what came after it is not.
            writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        with (
            logging_redirect_tqdm(),
            tqdm(
                total=self.steps,
                initial=self.step,
                unit="step",
                dynamic_ncols=True,
                mininterval=2,
                disable=None if self.process.is_main else True,  # None: where nobody looks at it
            ) as bar,
        ):
            while self.step < self.steps:
                epoch = self.step // per_epoch
                self._train_epoch(model, epoch, bar)
                if (epoch + 1) % train.eval_every == 0 or self.step == self.steps:
                    self._evaluate(epoch, writer)
                self.meter.reset()
                self.gradients.reset()
                self.balance.reset()
                if (epoch + 1) % train.checkpoint_every == 0 or self.step == self.steps:
                    self.save_checkpoint()
        if writer:
            writer.close()
        return self._finish()

    def _train_epoch(self, model: nn.Module, epoch: int, bar: tqdm) -> None:
        """The steps of epoch ``epoch`` that are not done yet."""
        train, per_epoch = self.cfg.train, len(self.data.train)
        model.train()
        start = saved = time.perf_counter()
        done = self.step - epoch * per_epoch
        if self.captured is None:
            steps = self._uncaptured(model, epoch, done)
        else:
            steps = self.captured.epoch(epoch, done)
        for taken in steps:
            self.step += taken
            bar.update(taken)
            if self.step % train.log_every < taken and (loss := self.meter.look(self.step)):
                bar.set_postfix_str(f"loss {loss:.3f}")
            due = time.perf_counter() - saved > 60 * train.checkpoint_minutes
            # Among several processes only the end of an epoch is the same for all.
            if due and self.process.world_size == 1 and self.step % per_epoch:
                self.meter.check_finite(self.step)
                self.meter.seconds += time.perf_counter() - start
                self.save_checkpoint()
                start = saved = time.perf_counter()
        self.meter.check_finite(self.step)
        self.meter.seconds += time.perf_counter() - start

    def _uncaptured(self, model: nn.Module, epoch: int, first_batch: int) -> Iterator[int]:
        """Train the rest of an epoch step by step; yield the number of steps of each call."""
        for images, labels in self.data.train.epoch(epoch, first_batch):
            # Dropout alone draws from this; each process draws its own.
            torch.manual_seed(self.seed(self.step))
            self.meter.add_values(self._step(model, images, labels))
            self.count(1)
            yield 1

    def _step(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Update the weights once; return the losses, detached, still on the device."""
        return self._update(model, images, labels, self.rate(self.step), self.step)

    def _update(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        rate: float | Tensor,
        step: int,
        taught: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        self.distiller.measures_gradients = self.alone(step)
        progress = progress_at(step, self.steps)
        losses = self.update(model, images, labels, rate, progress, taught)
        if self.distiller.gradients:
            self.gradients.add(self.distiller.gradients)
        if self.distiller.distill is not None:
            self.balance.add_values(self.distiller.distill.balance_figures)
        return losses

    def take(
        self, images: Tensor, labels: Tensor, rates: Tensor, step: int, *, draws: bool
    ) -> None:
        """Train steps on the device alone, for :class:`.CapturedSteps`, as all that follows."""
        size = len(images) // len(rates)
        # The teacher sees the images of all steps at once: few small kernels fill no GPU.
        taught = self.update.teach(images, progress_at(step, self.steps))
        for k, rate in enumerate(rates.unbind()):
            if draws:
                torch.manual_seed(self.seed(step + k))
            rows = slice(k * size, (k + 1) * size)
            own = {name: value[rows] for name, value in taught.items()}
            losses = self._update(self.distiller, images[rows], labels[rows], rate, step + k, own)
            self.meter.add_values(losses)

    def count(self, steps: int) -> None:
        """Count steps that were taken."""
        self.meter.steps += steps
        self.balance.steps += steps
        self.update.count(steps)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return learning_rate(self.cfg.train, step, len(self.data.train))

    def weights(self, step: int) -> tuple[float, ...]:
        """Return the weights of the terms in a step."""
        terms, progress = self.distiller.distill, progress_at(step, self.steps)
        pairings = terms.pairings.values() if terms is not None else ()
        return tuple(pair.weight_at(progress) for pair in pairings)

    def seed(self, step: int) -> int:
        """Return the seed of what a step draws in this process."""
        # The 1 keeps these seeds apart from those of the data, as a trailing 0 would not.
        return seed_of(self.cfg.seed, step, self.process.rank, 1)

    def alone(self, step: int) -> bool:
        """Return whether a step measures gradients, which are averaged on the host's count."""
        every = self.cfg.train.gradient_every
        return every > 0 and (step + 1) % every == 0

    def _evaluate(self, epoch: int, writer: "SummaryWriter | None") -> None:
        """Add this epoch to the history, and write it."""
        rate = self.rate(self.step - 1)
        means = self.meter.means(self.process)
        row: dict[str, float] = {"epoch": epoch + 1, "lr": rate, **means}
        if self.distiller.distill is not None:
            distill = self.distiller.distill
            when = [progress_at(self.step - 1 - i, self.steps) for i in range(self.meter.steps)]
            row |= distill.similarities(means, when) | loss_shares(distill.pairings, means)
            row |= self.gradients.means(self.process) | self.balance.means(self.process)
        for prefix, model in (("", self.student), ("ema_", self.update.ema)):
            if model is not None:
                # BatchNorm's statistics are each process's own: those that will be saved count.
                self.process.share(model.buffers())
                with self.update.autocast():
                    accuracy = evaluate(model, self.data.val, self.process)
                row |= {f"{prefix}top1": accuracy.top1, f"{prefix}top5": accuracy.top5}
        row["images_per_second"] = self.data.train.samples / self.meter.seconds
        is_best = all(row["top1"] > earlier["top1"] for earlier in self.history)
        self.history.append(row)
        if is_best and self.process.is_main:
            save_weights(self.student, self.folder / STUDENT_BEST, self.data.classes)
        if writer:
            write_metrics(self.folder / METRICS, self.history)
            for key, value in row.items():
                writer.add_scalar(key, value, self.step)
            writer.flush()  # the checkpoint that follows says that this row is there
            for hook in self.hooks:
                hook(self, epoch, writer)
        logger.info(
            "epoch %d of %d: loss %.3f, top-1 %.2f, top-5 %.2f, %.0f images/s",
            row["epoch"],
            self.cfg.train.epochs,
            sum(means.values()),
            row["top1"],
            row["top5"],
            row["images_per_second"],
        )

    def save_checkpoint(self) -> None:
        """Write all that the next step depends on."""
        if self.process.is_main:
            values = {"step": self.step, "history": self.history, "config": to_dict(self.cfg)}
            values["classes"] = list(self.data.classes)
            save_snapshot(self.folder / CHECKPOINT, self._parts(), values)

    def load_checkpoint(self) -> None:
        """Go on from the folder's checkpoint, if it has one.

        Raises:
            ConfigError: a file that cannot be read; it names the remedy.
        """
        path = self.folder / CHECKPOINT
        if not path.is_file():
            logger.info("%s has no checkpoint yet: starting from the beginning", self.folder)
            return
        values = load_snapshot(path, self._parts(), steps=self.steps)
        self.step, self.history = values["step"], values["history"]

    def _parts(self) -> dict[str, Any]:
        """Return all parts that have a state, by name."""
        distill = self.distiller.distill
        parts = {
            "model": self.student,
            "adapters": distill,
            "optimizer": self.update.optimizer,
            "scaler": self.update.scaler,
            "ema": self.update.ema,
            "meter": self.meter,
            "gradients": self.gradients if self.cfg.train.gradient_every else None,
            "balance": self.balance if distill is not None and distill.balances else None,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _finish(self) -> dict[str, Any]:
        """Write the student's weights and the summary."""
        classes = self.data.classes
        summary = summarize(self.cfg, self.history, self.student, self.process.device, classes)
        if self.process.is_main:
            save_weights(self.student, self.folder / STUDENT, classes)
            if self.update.ema is not None:
                save_weights(self.update.ema.module, self.folder / STUDENT_EMA, classes)
            write_json(self.folder / SUMMARY, summary)  # last: it says that the run is finished
        return summary
