"""Mixed precision (SOLVER.AMP) in float16 or bfloat16, on GPU and CPU."""

import time

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer

from pcka.detection.config import ConfigError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def step_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Of autocast by SOLVER.AMP; None where it is off.

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


class MixedPrecisionTrainer(SimpleTrainer):
    """detectron2's ``AMPTrainer`` for either type and device; its checkpoints are alike.

    Student and teacher run under autocast; weights, optimizer and the distillation losses stay in
    float32. float16 scales the loss, or small gradients would be 0.
    """

    def __init__(self, model, data_loader, optimizer, *, dtype: torch.dtype):
        """
        Args:
            model: on one device, in DistributedDataParallel or not.
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
        # Divides by the scale first, so that SOLVER.CLIP_GRADIENTS, inside the optimizer's step,
        # sees the gradients themselves. A step that overflowed is left out.
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        if self.grad_scaler.is_enabled() and state.get("grad_scaler"):  # may come of another type
            self.grad_scaler.load_state_dict(state["grad_scaler"])
