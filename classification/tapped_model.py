"""A classifier whose features can be read by name."""

from collections.abc import Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from pcka.core import FeatureShape, Taps
from pcka.core.taps import Through

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
        self._compiled: dict[str, Tensor] | None = None  # what a compiled model fills

    def __call__(self, images: Tensor, through: Through | None = None) -> dict[str, Tensor]:
        """Return features by name, ``logits`` among them, of ``(B, 3, H, W)``.

        Args:
            images: ``(B, 3, H, W)``.
            through: given a name and a feature, returns what the model goes on with in its place;
                not for a compiled model.
        """
        if self._compiled is not None:
            logits = self.model(images)
            return {**self._compiled, LOGITS: logits}
        with self.taps.record(through) as features:
            logits = self.model(images)
            return {**features, LOGITS: through(LOGITS, logits) if through else logits}

    def compile(self) -> None:
        """Compile the model where it stands; its hooks then stay, as they are part of the graph."""
        self._hooks = ExitStack()  # kept, for the hooks go with it
        self._compiled = self._hooks.enter_context(self.taps.record())
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
