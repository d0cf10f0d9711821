"""The meta-architecture: an unmodified student detector that also learns from a teacher."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from pcka.core import DistillTerms, Taps, gradient_ratios, loss_shares
from pcka.core.collectives import world_size
from pcka.core.schedules import progress_at
from pcka.detection.config import ConfigError
from pcka.detection.config_terms import term_specs

from .features import Detector, feature_modules, feature_shapes
from .padding import padded_alike
from .step_report import StepReport
from .teacher import FrozenTeacher, build_teacher


@META_ARCH_REGISTRY.register()
class DistilledDetector(nn.Module):
    """A student whose losses are its own plus those of distillation.

    The student's own ``forward`` runs and its features are read by hooks, so any detectron2
    detector with a ``backbone`` can be a student. In evaluation only the student runs. The teacher
    is not part of the module tree. ``StudentCheckpointer`` saves the student as the plain detector
    that it is.
    """

    @configurable
    def __init__(
        self,
        *,
        student: Detector,
        teacher: FrozenTeacher | None = None,
        distill: DistillTerms | None = None,
        max_iter: int | None = None,
        mask_padding: bool = False,
        gradient_period: int = 0,
    ):
        """
        Args:
            student: a detectron2 meta-architecture.
            teacher: None trains the student alone.
            distill: the terms between the two, given with the teacher.
            max_iter: iterations of the whole run, for the terms' schedules; None keeps the
                weights of the terms constant.
            mask_padding: leave the padding of the batch out of the losses of maps.
            gradient_period: iterations between two measurements of ``gradient_ratios``; 0 measures
                none.
        """
        super().__init__()
        if (teacher is None) != (distill is None):
            raise ValueError("a teacher and terms come together, or neither does")
        self.student: Detector = student
        self.teacher = teacher
        self.max_iter = max_iter
        self.mask_padding = mask_padding
        self.distill = distill
        self.gradient_period = gradient_period
        self.taps = Taps(feature_modules(student))
        self._report: StepReport | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        specs = term_specs(cfg)
        name = cfg.MODEL.PCKA.STUDENT_META_ARCHITECTURE
        if name not in META_ARCH_REGISTRY or name == cls.__name__:
            raise ConfigError(f"MODEL.PCKA.STUDENT_META_ARCHITECTURE {name!r} is not registered")
        student = META_ARCH_REGISTRY.get(name)(cfg)
        if not specs:
            return {"student": student}
        teacher = build_teacher(cfg)
        try:
            distill = DistillTerms(specs, feature_shapes(student), teacher.feature_shapes)
        except ValueError as error:
            raise ConfigError(f"MODEL.PCKA.TERMS: {error}") from error
        if distill.gathers and world_size() > 1 and hasattr(student, "sem_seg_head"):
            raise ConfigError(
                f"MODEL.PCKA.TERMS: {name} pads the ground truth of its segmentation by itself and "
                "cannot follow the common size that gather needs: set gather False"
            )
        return {
            "student": student,
            "teacher": teacher,
            "distill": distill,
            "max_iter": cfg.SOLVER.MAX_ITER,
            "mask_padding": cfg.MODEL.PCKA.MASK_PADDING,
            "gradient_period": cfg.MODEL.PCKA.GRADIENT_PERIOD,
        }

    @property
    def device(self) -> torch.device:
        return self.student.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Return a dict of losses in training, and a list of results in evaluation."""
        if not self.training or self.teacher is None or self.distill is None:
            return self.student(batched_inputs)
        self.finish_step()
        progress = None
        if self.max_iter is not None:
            progress = progress_at(get_event_storage().iter, self.max_iter)
        backbones = (self.student.backbone, self.teacher.model.backbone)
        with padded_alike(*backbones if self.distill.gathers else ()):
            # Run the teacher first: its temporaries are freed before the student's activations are
            # kept for backward.
            names = {pair.teacher for pair in self.distill.on(progress).values()}
            taught = self.teacher(batched_inputs, self.device, names) if names else {}
            figures = self.distill.balance_figures  # of the last backward; the next one is to come
            through = self.distill.through if self.distill.balances else None
            # TorchScript rewrites a loss (detectron2's focal loss) after its first calls, which
            # changes the order of sums: a resumed run would differ in the last bit.
            with self.taps.record(through) as features, torch.jit.optimized_execution(False):
                losses = self.student(batched_inputs)
            sizes = [x["image"].shape[-2:] for x in batched_inputs] if self.mask_padding else None
            losses.update(self.distill(features, taught, progress=progress, image_sizes=sizes))
        self._report = self._start_report(losses, features, self.distill, progress, figures)
        if self.device.type == "cpu":
            self.finish_step()
        return losses

    def finish_step(self) -> None:
        """Check and log the losses of the last step: trainers call it between backward and step.

        Until then a GPU goes on with the backward pass. Where no trainer calls it, the next
        forward pass does.

        Raises:
            FloatingPointError: a loss that is not finite; the message names it.
        """
        report, self._report = self._report, None
        if report is not None:
            report.finish()

    def _start_report(
        self,
        losses: dict[str, Tensor],
        features: dict[str, Tensor],
        distill: DistillTerms,
        progress: float | None,
        figures: dict[str, Tensor],
    ) -> StepReport:
        """Return what logs the CKA, the share of the loss and the gradient of every level."""
        ratios: dict[str, Any] = {}
        if self.gradient_period and (get_event_storage().iter + 1) % self.gradient_period == 0:
            ratios = gradient_ratios(distill.pairings, losses, features)

        def scalars(values: dict[str, float]) -> dict[str, Any]:
            found: dict[str, Any] = distill.similarities(values, [progress])
            return found | loss_shares(distill.pairings, values) | ratios

        return StepReport(losses, scalars, figures)
