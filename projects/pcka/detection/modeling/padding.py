"""Batches of one size on all processes, for the terms that gather."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcka.core.collectives import all_max_, world_size


@contextmanager
def padded_alike(*backbones: nn.Module) -> Iterator[None]:
    """Inside, these see their batch as one process would pad it within the batch of all.

    detectron2 pads the normalised images of a batch with zeros, right and below, to the size of
    the largest; every process has a largest of its own. Here it is that of all. Heads take the
    size of an image from its record, not from the batch, so they need no word of it.
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
