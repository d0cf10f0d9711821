"""Student, frozen teacher and terms: they turn images and labels into a dictionary of losses."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcka.core import DistillTerms, FeatureShape, Taps, TermSpec, gradient_ratios

from .models import feature_modules

LOGITS = "logits"


class TappedModel:
    """A classifier that returns its named features along with its logits; no module itself.

    Args:
        model: ``(B, 3, H, W)`` -> logits ``(B, P)``.
        names: features of :func:`pcka.classification.models.feature_modules`, or ``logits``.
    """

    def __init__(self, model: nn.Module, names: Iterable[str] = ()):
        self.model = model
        self.taps = Taps(feature_modules(model, [n for n in names if n != LOGITS]))
        self._recording: Callable[[], AbstractContextManager[dict[str, Tensor]]] = self.taps.record

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return features by name, ``logits`` among them, of ``(B, 3, H, W)``."""
        with self._recording() as features:
            logits = self.model(images)
            return {**features, LOGITS: logits}

    def compile(self) -> None:
        """Compile the model where it stands; its hooks then stay, as they are part of the graph."""
        self._hooks = ExitStack()  # kept, for the hooks go with it
        features = self._hooks.enter_context(self.taps.record())
        self._recording = lambda: nullcontext(features)
        self.model.compile()

    @torch.no_grad()
    def shapes(self, image_size: int) -> dict[str, FeatureShape]:
        """Return channels and stride of every feature, from one black image; the model is kept."""
        training = self.model.training
        image = next(self.model.parameters()).new_zeros(1, 3, image_size, image_size)
        self.model.eval()
        features = self(image)
        self.model.train(training)
        return {name: _shape(name, value, image_size) for name, value in features.items()}


class Teacher:
    """A frozen network: in evaluation mode, without gradient, and not part of any module.

    Args:
        model: trained.
        names: of its features that are wanted.
        mean, std: per channel, of the images that it was trained on.
        data_mean, data_std: of the images that it is given.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str] = (),
        *,
        mean: Sequence[float],
        std: Sequence[float],
        data_mean: Sequence[float],
        data_std: Sequence[float],
    ):
        self.model = model.eval().requires_grad_(False)
        self.tapped = TappedModel(model, names)
        like = next(model.parameters())
        own_mean, own_std, given_mean, given_std = (
            torch.tensor(v, device=like.device).view(3, 1, 1)
            for v in (mean, std, data_mean, data_std)
        )
        self.renormalizes = not (own_mean.equal(given_mean) and own_std.equal(given_std))
        self.scale, self.shift = given_std / own_std, (given_mean - own_mean) / own_std

    def normalize(self, images: Tensor) -> Tensor:
        """Turn ``(B, 3, H, W)``, normalised for the student, into images for the teacher."""
        return images * self.scale + self.shift if self.renormalizes else images

    @torch.no_grad()  # not inference mode: the student's losses keep these tensors for backward
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return features by name of ``(B, 3, H, W)``, normalised for the student."""
        return self.tapped(self.normalize(images))


class Distiller(nn.Module):
    """The module that is trained: the student, and adapters under ``distill``.

    Args:
        student: the classifier.
        teacher: None trains the student alone.
        distill: the terms between the two; given with the teacher.
        ce_weight: factor of the cross-entropy with the labels.
        label_smoothing: of that cross-entropy.

    Attributes:
        measures_gradients: whether the next forward fills ``gradients``.
        gradients: of :func:`pcka.core.gradient_ratios`, of the last forward; else empty.
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

    def forward(
        self, images: Tensor, labels: Tensor, progress: float | None = None
    ) -> dict[str, Tensor]:
        """Return scalars whose sum is the loss, of ``(B, 3, H, W)`` and labels ``(B,)``.

        ``progress`` of the training is for the terms' schedules; None: their full weights.
        """
        taught: dict[str, Tensor] = {}
        if self.teacher is not None and self.distill is not None and self.distill.on(progress):
            # Run the teacher first: its temporaries are freed before the student's activations are
            # kept for backward.
            taught = self.teacher(images)
        features = self._tapped(images)
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


def _shape(name: str, value: Tensor, image_size: int) -> FeatureShape:
    if value.dim() == 4:
        return FeatureShape(value.shape[1], image_size // value.shape[-1])
    if value.dim() == 2:
        return FeatureShape(value.shape[1])
    raise ValueError(
        f"feature {name!r} is {tuple(value.shape)}: a term relates maps (B, C, H, W) or "
        "vectors (B, C)"
    )
