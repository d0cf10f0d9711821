"""A classifier whose features can be read by name."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor, nn

from pcka.core import FeatureShape, Taps

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


def _shape(name: str, value: Tensor, image_size: int) -> FeatureShape:
    if value.dim() == 4:
        return FeatureShape(value.shape[1], image_size // value.shape[-1])
    if value.dim() == 2:
        return FeatureShape(value.shape[1])
    raise ValueError(
        f"feature {name!r} is {tuple(value.shape)}: a term relates maps (B, C, H, W) or "
        "vectors (B, C)"
    )
