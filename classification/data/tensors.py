"""Images that fit in memory: one uint8 tensor, augmented batch by batch without a Python loop.

Letters: N images of the set, B of the batch, C = 3 channels, H = W pixels a side.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .batches import generator, share_of, train_spans

_GPU_PIXELS = 1 << 20  # of the images of a batch that is evaluated on a GPU: 1,024 of CIFAR's


class ImageSet(NamedTuple):
    """A data set in memory."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64

    def subset(self, indices: Tensor) -> "ImageSet":
        return ImageSet(self.images[indices], self.labels[indices])


class Draws(NamedTuple):
    """The place in the padded image where each crop begins, and whether it is mirrored."""

    top: Tensor  # (B,) int64 in [0, 2 padding]
    left: Tensor  # (B,) int64
    mirror: Tensor  # (B,) bool


def draw(count: int, *, padding: int, flip: bool, generator: torch.Generator) -> Draws:
    """Draw uniform offsets, and a fair coin if ``flip``, independently for ``count`` images."""
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    mirror = torch.rand(count, generator=generator) < (0.5 if flip else 0.0)
    return Draws(top, left, mirror)


def crop_and_mirror(images: Tensor, draws: Draws, *, padding: int) -> Tensor:
    """Pad with black, cut each image out at its own place, mirror some.

    Args:
        images: ``(B, C, H, W)``.
        draws: one entry per image.
        padding: pixels on each side.

    Returns:
        ``(B, C, H, W)``, of the same type.
    """
    B, C, H, W = images.shape
    rows, columns = (torch.arange(n, device=images.device) for n in (H, W))
    rows = rows + draws.top[:, None]
    columns = torch.where(draws.mirror[:, None], columns.flip(0), columns) + draws.left[:, None]
    padded = F.pad(images, (padding,) * 4)
    # One gather of pixels by their number in the padded image, the same for all channels.
    pixels = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]
    pixels = pixels.view(B, 1, H * W).expand(B, C, H * W)
    return padded.flatten(2).gather(2, pixels).view(B, C, H, W)


class Normalize:
    """Turns uint8 in [0, 255] into float32, ``(x / 255 - mean) / std`` per channel, in one pass."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device):
        center, spread = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (mean, std))
        self.scale = (1 / (255 * spread)).float().to(device)
        self.shift = (-center / spread).float().to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)`` uint8 into float32."""
        return images.float().mul_(self.scale).add_(self.shift)


class _TensorLoader:
    def __init__(self, data: ImageSet, *, mean, std, device):
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self.samples = len(data.images)
        self.normalize = Normalize(mean, std, self.images.device)


class TensorTrainLoader(_TensorLoader):
    """Shuffled, augmented batches of a data set that lies on the device.

    A batch is a function of (seed, epoch, number of the batch). All draws of an epoch are made at
    its beginning and taken to the device at once, so that a batch neither waits for it nor makes
    the host wait.

    Args:
        data: all images of the set.
        batch_size: images per step of all processes together; see
            :func:`pcka.classification.data.batches.train_spans` for the last batch.
        mean, std: per channel.
        padding, flip: the options of the augmentation.
        seed: the seed of order and augmentation, the same on all processes.
        device: where the data set is kept.
        rank, world_size: this process and the number of all.
    """

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        padding: int,
        flip: bool,
        seed: int,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(data, mean=mean, std=std, device=device)
        self.spans = train_spans(self.samples, batch_size, world_size)
        self.padding, self.flip, self.seed = padding, flip, seed
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return len(self.spans)

    def epoch(self, index: int, first_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share of the batches of epoch ``index`` from ``first_batch`` on.

        Yields:
            ``(B, C, H, W)`` float32 and ``(B,)`` int64.
        """
        plan = self.plan(index)
        for span in self.spans[first_batch:]:
            yield self.batch(plan[:, share_of(span, self.rank, self.world_size)])

    def plan(self, index: int) -> Tensor:
        """Return the draws of epoch ``index`` in its order: ``(4, N)`` int64 on the device.

        The rows are the number of the image, and top, left and mirror of :class:`Draws`.
        """
        chance = generator(self.seed, index)
        order = torch.randperm(self.samples, generator=chance)
        draws = draw(self.samples, padding=self.padding, flip=self.flip, generator=chance)
        return self.to_device(torch.stack([order, *draws]))

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and labels of some columns of a plan, ``(4, B)``."""
        members, top, left, mirror = rows
        images = self.images[members]
        if self.padding or self.flip:
            draws = Draws(top, left, mirror.bool())
            images = crop_and_mirror(images, draws, padding=self.padding)
        return self.normalize(images), self.labels[members]

    def to_device(self, tensor: Tensor) -> Tensor:
        """Copy from the host, without the host waiting for it."""
        if self.images.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self.images.device, non_blocking=True)


class TensorEvalLoader(_TensorLoader):
    """Every image once, in order and unaltered, dealt out to the processes in turn.

    Arguments as for :class:`TensorTrainLoader`; ``batch_size`` is that of one process, and the
    least on a GPU, which small batches do not fill.
    """

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
    ):
        share = slice(rank, None, world_size)
        mine = ImageSet(data.images[share], data.labels[share])
        super().__init__(mine, mean=mean, std=std, device=device)
        self.samples = len(data.images)
        self.batch_size = batch_size
        if self.images.is_cuda:
            height, width = self.images.shape[-2:]
            self.batch_size = max(batch_size, _GPU_PIXELS // (height * width))

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def epoch(self, index: int = 0, first_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches; every epoch is the same.

        Yields:
            ``(B, C, H, W)`` float32 and ``(B,)`` int64.
        """
        for batch in range(first_batch, len(self)):
            part = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            yield self.normalize(self.images[part]), self.labels[part]
