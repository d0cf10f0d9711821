"""One update of the weights: forward, backward, clipping, SGD and the moving average.

Nothing in it waits for the device, so that a GPU can be handed the whole of it at once; see
``captured_steps.py``.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .config_sections import TrainConfig
from .distiller import Distiller

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """Return the context of ``train.amp`` on a device."""
    # A graph must not read casts of weights that were cached before its capture. Nothing is cast
    # twice in a step, so the cache saves nothing.
    return torch.autocast(
        device.type, AUTOCAST.get(amp), enabled=amp in AUTOCAST, cache_enabled=False
    )


class Update:
    """The optimiser and all else that an update changes besides the networks.

    On a GPU the learning rate is a tensor that SGD's fused kernel reads, whether steps are captured
    or not: both then compute the same bits.

    Args:
        train: the optimisation.
        distiller: on ``device``.
        device: where it trains.
    """

    def __init__(self, train: TrainConfig, distiller: Distiller, device: torch.device):
        self.train, self.distiller, self.device = train, distiller, device
        self.parameters = [p for p in distiller.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            self.parameters,
            lr=train.lr,
            momentum=train.momentum,
            nesterov=train.nesterov,
            weight_decay=train.weight_decay,
        )
        self._rate = torch.zeros((), device=device)  # float32, as the fused kernel takes it
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.amp == "fp16")
        self.ema = None
        self._averages = False  # whether the average has begun, known without reading a tensor
        if train.ema_decay is not None:
            # BatchNorm's statistics are averaged too, since those of the last weights do not fit
            # averaged weights.
            self._average = get_ema_multi_avg_fn(train.ema_decay)
            self.ema = AveragedModel(
                distiller.student, multi_avg_fn=self._average, use_buffers=True
            )

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        rate: float | Tensor,
        progress: float,
        taught: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Update the weights; return the losses, detached, still on the device.

        Args:
            model: the distiller, or what wraps it for several processes.
            images, labels: ``(B, 3, H, W)`` and ``(B,)``.
            rate: the learning rate; a tensor is read on the device.
            progress: the progress of the training, for the terms' schedules.
            taught: the result of :meth:`teach` for these images; None asks the teacher.
        """
        images = self._laid_out(images)
        self._set_rate(rate)
        with self.autocast():
            losses = model(images, labels, progress, taught)
        self.optimizer.zero_grad()
        self.scaler.scale(sum(losses.values())).backward()
        if self.train.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.train.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self._update_average(self.ema)
        return {name: value.detach() for name, value in losses.items()}

    def count(self, steps: int) -> None:
        """Count ``steps`` updates that were done; the host's part, which no graph replays."""
        if self.ema is not None:
            self.ema.n_averaged += steps

    def autocast(self) -> torch.autocast:
        """Return the context in which networks run."""
        return autocast(self.train.amp, self.device)

    def teach(self, images: Tensor, progress: float) -> dict[str, Tensor]:
        """Return the teacher's features of images of one or several steps."""
        with self.autocast():
            return self.distiller.teach(self._laid_out(images), progress)

    def _laid_out(self, images: Tensor) -> Tensor:
        if not self.train.channels_last:
            return images
        return images.contiguous(memory_format=torch.channels_last)

    def _set_rate(self, rate: float | Tensor) -> None:
        for group in self.optimizer.param_groups:
            if self.device.type != "cuda":
                group["lr"] = rate
                continue
            # Set anew in every step, since a checkpoint of a CPU brings a number and no fused SGD.
            group["lr"], group["fused"], group["foreach"] = self._rate, True, False
        if self.device.type == "cuda":
            self._rate.copy_(rate) if isinstance(rate, Tensor) else self._rate.fill_(rate)

    @torch.no_grad()
    def _update_average(self, ema: AveragedModel) -> None:
        """Do what ``AveragedModel.update_parameters`` does, without a copy from the host."""
        pairs = [
            (mean.detach(), value.detach())
            for kind in (nn.Module.parameters, nn.Module.buffers)
            for mean, value in zip(kind(ema.module), kind(self.distiller.student), strict=True)
        ]
        begun = self._averages or int(ema.n_averaged) > 0
        self._averages = True
        if not begun:
            for mean, value in pairs:
                mean.copy_(value)
            return
        for floating in (True, False):
            chosen = [pair for pair in pairs if pair[0].is_floating_point() == floating]
            if chosen:
                self._average(*map(list, zip(*chosen, strict=True)), ema.n_averaged)
