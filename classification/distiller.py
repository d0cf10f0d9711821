"""Student, frozen teacher and terms: they turn images and labels into a dictionary of losses."""

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcka.core import DistillTerms, TermSpec, gradient_ratios

from .models import feature_modules
from .tapped_model import LOGITS, TappedModel
from .teacher import Teacher


class Distiller(nn.Module):
    """The module that is trained: the student, and adapters under ``distill``.

    Args:
        student: the classifier.
        teacher: None trains the student alone.
        distill: the terms between the two; given with the teacher.
        ce_weight: factor of the cross-entropy with the labels.
        label_smoothing: the smoothing of that cross-entropy.

    Attributes:
        measures_gradients: whether the next forward fills ``gradients``.
        gradients: the result of :func:`pcka.core.gradient_ratios` in the last forward, or empty.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None = None,
        distill: DistillTerms | None = None,
        *,
        ce_weight: float = 1.0,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        if (teacher is None) != (distill is None):
            raise ValueError("a teacher and terms come together, or neither does")
        self.student = student
        self.teacher = teacher
        self.distill = distill
        self.ce_weight = ce_weight
        self.label_smoothing = label_smoothing
        self.measures_gradients = False
        self.gradients: dict[str, Tensor] = {}
        names = [p.student for p in distill.pairings.values()] if distill else []
        self._tapped = TappedModel(student, names)

    def teach(self, images: Tensor, progress: float | None = None) -> dict[str, Tensor]:
        """Return the teacher's features of ``(B, 3, H, W)``; nothing where no term is on."""
        if self.teacher is None or self.distill is None or not self.distill.on(progress):
            return {}
        return self.teacher(images)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        progress: float | None = None,
        taught: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return scalars whose sum is the loss.

        Args:
            images, labels: ``(B, 3, H, W)`` and ``(B,)``.
            progress: the progress of the training, for the terms' schedules; None: full weights.
            taught: the result of :meth:`teach` for these images; None asks the teacher.
        """
        if taught is None:
            # Run the teacher first: its temporaries are freed before the student's activations are
            # kept for backward.
            taught = self.teach(images, progress)
        through = self.distill.through if self.distill and self.distill.balances else None
        features = self._tapped(images, through)
        losses = {}
        if self.ce_weight:
            logits = features[LOGITS]
            entropy = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            losses["loss_ce"] = self.ce_weight * entropy
        if self.distill is not None:
            losses.update(self.distill(features, taught, labels, progress=progress))
        self.gradients = {}
        if self.measures_gradients and self.distill is not None:
            self.gradients = gradient_ratios(self.distill.pairings, losses, features)
        return losses

    def channels_last(self) -> None:
        """Lay both networks out for images of that memory format."""
        self.to(memory_format=torch.channels_last)
        if self.teacher is not None:
            self.teacher.model.to(memory_format=torch.channels_last)

    def compile(self) -> None:
        """Compile both networks; the losses stay as they are."""
        self._tapped.compile()
        if self.teacher is not None:
            self.teacher.tapped.compile()

    @torch.no_grad()
    def check_batch(self, size: int, image_size: int) -> None:
        """Raise ValueError where the student or a term cannot do with ``size`` images."""
        images = next(self.student.parameters()).new_zeros(size, 3, image_size, image_size)
        labels = torch.zeros(size, dtype=torch.int64, device=images.device)
        # BatchNorm in training wants several values per channel; a copy, for it notes what it sees.
        deepcopy(self.student).train()(images)
        training = self.training
        try:
            self.eval()(images, labels)
        finally:
            self.train(training)


def build_terms(
    specs: Sequence[TermSpec], student: nn.Module, teacher: nn.Module, image_size: int
) -> tuple[DistillTerms, list[str]]:
    """The terms, and the names of the teacher's features that they read.

    Raises:
        ValueError: names the term, and the features that there are.
    """
    wanted = {name for spec in specs for name in spec.features}
    theirs = {name for spec in specs for name in (spec.teacher_features or spec.features)}
    terms = DistillTerms(
        specs,
        TappedModel(student, _known(student, wanted)).shapes(image_size),
        TappedModel(teacher, _known(teacher, theirs)).shapes(image_size),
    )
    return terms, [pair.teacher for pair in terms.pairings.values()]


def _known(model: nn.Module, wanted: set[str]) -> list[str]:
    """The model's own feature names, and those of ``wanted`` that are paths of submodules."""
    paths = {name for name, _ in model.named_modules() if name}
    return [*feature_modules(model), *sorted(wanted & paths - feature_modules(model).keys())]
