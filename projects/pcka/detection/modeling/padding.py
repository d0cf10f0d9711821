"""Padding the batches of all processes to one size, for the terms that gather."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcka.core.collectives import all_max_, world_size


@contextmanager
def padded_alike(*backbones: nn.Module) -> Iterator[None]:
    """Pad the inputs of the backbones to the largest size on any process, while it lasts.

    detectron2 pads the normalised images of a batch with zeros, right and below, to the largest
    image of that process. Here the largest image of all processes counts. The heads take the size
    of an image from its record instead of the batch, so they are not affected.
    """
    handles = [b.register_forward_pre_hook(_pad) for b in backbones if world_size() > 1]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pad(backbone: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    images, *rest = inputs
    height, width = images.shape[-2:]
    common = all_max_(torch.tensor((height, width), device=images.device)).tolist()
    return (F.pad(images, (0, common[1] - width, 0, common[0] - height)), *rest)
