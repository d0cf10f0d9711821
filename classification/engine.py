"""The training loop: from any step of a run to its end, the same way each time.

A step depends on the weights, the optimiser and its own number alone: images, augmentation, dropout
and learning rate are functions of (seed, step). So a run that is killed and resumed from its last
checkpoint ends, on a CPU, in the same bits as one that was not.
"""

import logging
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pcka.errors import ConfigError

from .config import Config, to_dict
from .data import Data
from .data.batches import seed_of
from .distiller import Distiller
from .evaluate import Accuracy, evaluate
from .processes import Process
from .records import CHECKPOINT, METRICS, STUDENT, SUMMARY, save, write_json, write_metrics
from .schedule import learning_rate

logger = logging.getLogger("classification")

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Engine:
    """Trains ``distiller`` as ``cfg`` says and leaves checkpoints, metrics and a summary.

    Args:
        cfg: the run.
        data: its images.
        distiller: on the process's device.
        process: this process among all.
        folder: of the run.
    """

    def __init__(
        self, cfg: Config, data: Data, distiller: Distiller, process: Process, folder: Path
    ):
        self.cfg, self.data, self.process, self.folder = cfg, data, process, folder
        self.distiller, self.student = distiller, distiller.student
        train = cfg.train
        self.parameters = [p for p in distiller.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            self.parameters,
            lr=train.lr,
            momentum=train.momentum,
            nesterov=train.nesterov,
            weight_decay=train.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=train.amp == "fp16")
        self.ema = None
        if train.ema_decay is not None:
            self.ema = AveragedModel(
                self.student, multi_avg_fn=get_ema_multi_avg_fn(train.ema_decay)
            )
        self.step = 0  # the next one
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}  # of the losses in this epoch, on the device
        self.seconds = 0.0  # of training in this epoch

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.cfg.train.epochs * len(self.data.train)

    def train(self) -> dict[str, Any]:
        """Train from where the run is to its end; returns the summary."""
        train = self.cfg.train
        if train.channels_last:
            self.distiller.to(memory_format=torch.channels_last)
        if train.compile:
            self.distiller.compile()
        model: nn.Module = self.distiller
        if self.process.world_size > 1:
            place = [self.process.device] if self.process.device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=place)
        writer = None
        if self.process.is_main:
            writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step)
        per_epoch = len(self.data.train)
        with tqdm(
            total=self.steps, initial=self.step, unit="step", dynamic_ncols=True, mininterval=2,
            disable=not self.process.is_main,
        ) as bar:  # fmt: skip
            while self.step < self.steps:
                epoch = self.step // per_epoch
                self._train_epoch(model, epoch, bar)
                if (epoch + 1) % train.eval_every == 0 or self.step == self.steps:
                    self._evaluate(epoch, writer, bar)
                else:
                    self.sums, self.seconds = {}, 0.0
                if (epoch + 1) % train.checkpoint_every == 0 or self.step == self.steps:
                    self.save_checkpoint()
        if writer:
            writer.close()
        return self._finish()

    def _train_epoch(self, model: nn.Module, epoch: int, bar: tqdm) -> None:
        train, per_epoch = self.cfg.train, len(self.data.train)
        model.train()
        first = self.step - epoch * per_epoch
        start = saved = time.perf_counter()
        for images, labels in self.data.train.epoch(epoch, first):
            # Dropout alone draws from this; each process draws its own.
            torch.manual_seed(seed_of(self.cfg.seed, self.step, self.process.rank))
            losses = self._step(model, images, labels)
            for name, value in losses.items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.step += 1
            bar.update()
            if self.step % train.log_every == 0:
                self._check_finite()
            due = time.perf_counter() - saved > 60 * train.checkpoint_minutes
            # Among several processes only the end of an epoch is the same for all.
            if due and self.process.world_size == 1 and self.step % per_epoch:
                self.seconds += time.perf_counter() - start
                self.save_checkpoint()
                start = saved = time.perf_counter()
        self._check_finite()
        self.seconds += time.perf_counter() - start

    def _step(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One update of the weights; returns the losses, detached, still on the device."""
        train, device = self.cfg.train, self.process.device.type
        if train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        rate = learning_rate(train, self.step, len(self.data.train))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device, _AUTOCAST.get(train.amp), enabled=train.amp != "none"):
            losses = model(images, labels)
        self.optimizer.zero_grad()
        self.scaler.scale(sum(losses.values())).backward()
        if train.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, train.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.student)
        return {name: value.detach() for name, value in losses.items()}

    def _check_finite(self) -> None:
        """Stop at a loss that is not finite, by name; asked rarely, since a GPU waits for it."""
        if not self.sums:
            return
        values = torch.stack([*self.sums.values()]).tolist()
        broken = [n for n, v in zip(self.sums, values, strict=True) if not math.isfinite(v)]
        if broken:
            raise FloatingPointError(
                f"not finite by step {self.step}: {', '.join(broken)}. Lower train.lr or the "
                "weight of that term, set train.clip_grad_norm, look for damaged images; the last "
                "checkpoint is from before"
            )

    def _evaluate(self, epoch: int, writer: SummaryWriter | None, bar: tqdm) -> None:
        per_epoch = len(self.data.train)
        row: dict[str, float] = {"epoch": epoch + 1}
        row["lr"] = learning_rate(self.cfg.train, self.step - 1, per_epoch)
        names = sorted(self.sums)
        means = self.process.sum(torch.stack([self.sums[n] for n in names]))
        means = (means / (per_epoch * self.process.world_size)).tolist()
        row.update(zip(names, means, strict=True))
        if self.distiller.distill is not None:
            row.update(self.distiller.distill.similarities(row))
        for prefix, model in (("", self.student), ("ema_", self.ema)):
            if model is not None:
                accuracy = self._accuracy(model)
                row |= {f"{prefix}top1": accuracy.top1, f"{prefix}top5": accuracy.top5}
        row["images_per_second"] = self.data.train.samples / self.seconds
        self.sums, self.seconds = {}, 0.0
        self.history.append(row)
        if writer:
            write_metrics(self.folder / METRICS, self.history)
            for key, value in row.items():
                writer.add_scalar(key, value, self.step)
            bar.set_postfix_str(f"top-1 {row['top1']:.2f}")

    def _accuracy(self, model: nn.Module) -> Accuracy:
        train = self.cfg.train
        with torch.autocast(
            self.process.device.type, _AUTOCAST.get(train.amp), enabled=train.amp != "none"
        ):
            return evaluate(model, self.data.val, self.process)

    def save_checkpoint(self) -> None:
        """All that the next step depends on; tensors and plain values only."""
        if not self.process.is_main:
            return
        content = {
            "model": self.student.state_dict(),
            "adapters": self._adapters(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "step": self.step,
            "sums": self.sums,
            "seconds": self.seconds,
            "history": self.history,
            "config": to_dict(self.cfg),
        }
        save(content, self.folder / CHECKPOINT)

    def load_checkpoint(self) -> None:
        """Go on from the folder's checkpoint, if it has one.

        Raises:
            ConfigError: a file that cannot be read; it names the remedy.
        """
        path = self.folder / CHECKPOINT
        if not path.is_file():
            logger.info("%s has no checkpoint yet: starting from the beginning", self.folder)
            return
        try:
            content = torch.load(path, map_location=self.process.device, weights_only=True)
            self.student.load_state_dict(content["model"])
            if self.distiller.distill is not None:
                self.distiller.distill.load_state_dict(content["adapters"])
            self.optimizer.load_state_dict(content["optimizer"])
        except Exception as error:
            raise ConfigError(
                f"{path} cannot be resumed from ({error}): move it away to start this run anew"
            ) from error
        self.scaler.load_state_dict(content["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(content["ema"])
        self.step, self.history = content["step"], content["history"]
        self.sums, self.seconds = content["sums"], content["seconds"]

    def _adapters(self) -> dict[str, Tensor]:
        distill = self.distiller.distill
        return distill.state_dict() if distill is not None else {}

    def _finish(self) -> dict[str, Any]:
        """Write the student's weights and the summary: the last figures, and the best beside."""
        best = max(self.history, key=lambda row: row["top1"])
        summary = {
            "last": {k: v for k, v in self.history[-1].items() if k.endswith(("top1", "top5"))},
            "best": {"epoch": best["epoch"], "top1": best["top1"], "top5": best["top5"]},
            "seed": self.cfg.seed,
            "epochs": self.cfg.train.epochs,
            "parameters": sum(p.numel() for p in self.student.parameters()),
            "images_per_second": statistics.mean(r["images_per_second"] for r in self.history),
            "device": str(self.process.device),
        }
        if self.process.is_main:
            save({"model": self.student.state_dict()}, self.folder / STUDENT)
            write_json(self.folder / SUMMARY, summary)
        return summary
