"""The frozen teacher of classification, and its preparation for a GPU."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .folding import fold_batch_norm
from .tapped_model import TappedModel


class Teacher:
    """A frozen network: in evaluation mode, without gradient, and not part of any module.

    Args:
        model: trained.
        names: the features that are wanted.
        mean, std: per channel, of the images that it was trained on.
        data_mean, data_std: the same of the images that it is given.
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

    def prepare(self, images: Tensor, dtype: torch.dtype | None = None) -> int:
        """Do once what every step would do again: fold BatchNorm, cast weights to a half type.

        Folding changes the features by rounding. A cast is what autocast does in every step.

        Args:
            images: ``(B, 3, H, W)``, as it is given them; their contents do not matter.
            dtype: autocast's type, in which the network runs from then on; None: no autocast.

        Returns:
            The number of BatchNorm layers that were folded.
        """
        folded = fold_batch_norm(self.model, images, self.tapped.taps.modules.values())
        if dtype is not None:
            for module in self.model.modules():
                if type(module) in (nn.Conv2d, nn.Linear):
                    module.to(dtype)
        return folded
