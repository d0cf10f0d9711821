"""The training step, in float32 or in mixed precision (SOLVER.AMP), on GPU and CPU."""

import time

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer

from pcka.detection.config import ConfigError
from pcka.detection.modeling.distilled_detector import DistilledDetector

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def step_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Return the type that SOLVER.AMP asks of autocast; None where it is off.

    Raises:
        ConfigError: an unknown SOLVER.AMP.DTYPE.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if cfg.SOLVER.AMP.DTYPE not in DTYPES:
        raise ConfigError(
            f"SOLVER.AMP.DTYPE {cfg.SOLVER.AMP.DTYPE!r} is not known: one of {', '.join(DTYPES)}"
        )
    return DTYPES[cfg.SOLVER.AMP.DTYPE]


class StepTrainer(SimpleTrainer):
    """detectron2's ``SimpleTrainer``, which checks the losses once backward is under way."""

    def after_backward(self) -> None:
        super().after_backward()
        model = getattr(self.model, "module", self.model)  # without DistributedDataParallel
        if isinstance(model, DistilledDetector):
            model.finish_step()


class MixedPrecisionTrainer(StepTrainer):
    """detectron2's ``AMPTrainer`` for either type and device, with checkpoints of the same form.

    Student and teacher run under autocast. Weights, optimizer and the distillation losses stay in
    float32. In float16 the loss is scaled, because small gradients would become 0.
    """

    def __init__(self, model, data_loader, optimizer, *, dtype: torch.dtype):
        """
        Args:
            model: a model on one device, in DistributedDataParallel or not.
            data_loader, optimizer: see ``SimpleTrainer``.
            dtype: ``torch.float16`` or ``torch.bfloat16``.
        """
        super().__init__(model, data_loader, optimizer)
        self.dtype = dtype
        self.device = next(model.parameters()).device.type
        self.grad_scaler = torch.amp.GradScaler(self.device, enabled=dtype == torch.float16)

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with torch.autocast(self.device, dtype=self.dtype):
            losses = self.model(data)
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        # The scaler divides the gradients by the scale before the optimizer's step, which is where
        # SOLVER.CLIP_GRADIENTS clips. It skips a step whose gradients overflowed.
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        # A run in bfloat16 saves an empty state.
        if self.grad_scaler.is_enabled() and state.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state["grad_scaler"])
