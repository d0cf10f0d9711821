"""Images that do not fit in memory: decoded from disk by workers, ImageNet's augmentation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from pcka.errors import ConfigError, RunError

from .batches import generator, seed_of, share_of, train_spans
from .image_tree import ImageTree, Split
from .tensors import Normalize

# Evaluation: the shorter side to 256, then the middle 224, and in this proportion at other sizes.
RESIZE_RATIO = 256 / 224
_ELONGATED = 50  # times as long as wide


def resize_and_crop(image: Image.Image, size: int, *, ratio: float = 1.0) -> Image.Image:
    """Bring the shorter side to ``ratio * size``, then cut the middle ``size`` x ``size``."""
    side = round(ratio * size)
    if max(image.size) > _ELONGATED * min(image.size):
        # The rest is cut off anyway, and resized it could take gigabytes.
        image = v2.functional.center_crop(
            image, [min(s, 2 * min(image.size)) for s in image.size[::-1]]
        )
    return v2.functional.center_crop(v2.functional.resize(image, [side]), [size, size])


class _Images(Dataset):
    """``(epoch, index) -> (image (3, S, S) uint8, label)``; the draws follow from the two."""

    def __init__(self, tree: ImageTree, split: Split, *, size: int, augment, seed: int):
        self.tree, self.split = tree, split
        self.size, self.augment, self.seed = size, augment, seed

    def __len__(self) -> int:
        return len(self.split.names)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        image = self.tree.open(self.split.names[index])
        if self.augment is None:
            image = resize_and_crop(image, self.size, ratio=RESIZE_RATIO)
        else:
            # torchvision draws from torch's global generator.
            with torch.random.fork_rng(devices=[]):
                torch.random.default_generator.manual_seed(seed_of(self.seed, epoch, index))
                image = self.augment(image)
        return v2.functional.pil_to_tensor(image), self.split.labels[index]


class _Plan:
    """Batch sampler of one process: what the next pass over the DataLoader reads."""

    def __init__(self):
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _FileLoader:
    def __init__(self, images: _Images, *, mean, std, device, workers: int):
        self.samples = len(images)
        self.device = torch.device(device)
        self.normalize = Normalize(mean, std, self.device)
        self._plan = _Plan()
        self._loader = DataLoader(
            images,
            batch_sampler=self._plan,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            # Or every pass would take a number from torch's global generator.
            generator=torch.Generator(),
        )

    def _pass(self, batches: list[list[tuple[int, int]]]) -> Iterator[tuple[Tensor, Tensor]]:
        self._plan.batches = batches
        with _errors_of_workers():
            for images, labels in self._loader:
                images = images.to(self.device, non_blocking=True)
                yield self.normalize(images), labels.to(self.device, non_blocking=True)


@contextmanager
def _errors_of_workers() -> Iterator[None]:
    """Shorten errors of workers, which torch raises with their traceback in the message."""
    try:
        yield
    except ConfigError as error:
        last = str(error).strip().splitlines()[-1]
        raise ConfigError(last.removeprefix("pcka.errors.ConfigError: ")) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or isinstance(error, RunError):
            raise
        raise RunError(
            f"a process that reads images died ({str(error).splitlines()[0]}): lower data.workers "
            "or set it to 0"
        ) from error


class FileTrainLoader(_FileLoader):
    """Shuffled batches: RandomResizedCrop, and a flip of half of the images.

    The order is a function of (seed, epoch), the augmentation of an image of (seed, epoch, image),
    so neither workers nor a start in mid-epoch change a batch; what is skipped is not decoded.
    Arguments as for :class:`pcka.classification.data.tensors.TensorTrainLoader`.
    """

    def __init__(
        self,
        tree: ImageTree,
        split: Split,
        *,
        size: int,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        flip: bool,
        seed: int,
        device: torch.device | str,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        augment = v2.Compose(
            [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(0.5 if flip else 0.0)]
        )
        images = _Images(tree, split, size=size, augment=augment, seed=seed)
        super().__init__(images, mean=mean, std=std, device=device, workers=workers)
        self.spans = train_spans(self.samples, batch_size, world_size)
        self.seed, self.rank, self.world_size = seed, rank, world_size

    def __len__(self) -> int:
        return len(self.spans)

    def epoch(self, index: int, first_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of epoch ``index`` from ``first_batch`` on, this process's share each.

        Yields:
            ``(B, 3, S, S)`` float32 and ``(B,)`` int64.
        """
        order = torch.randperm(self.samples, generator=generator(self.seed, index)).tolist()
        shares = (share_of(span, self.rank, self.world_size) for span in self.spans[first_batch:])
        return self._pass([[(index, image) for image in order[share]] for share in shares])


class FileEvalLoader(_FileLoader):
    """Every image once, shorter side resized and the middle cut, dealt out to the processes.

    Arguments as for :class:`pcka.classification.data.tensors.TensorEvalLoader`.
    """

    def __init__(
        self,
        tree: ImageTree,
        split: Split,
        *,
        size: int,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        images = _Images(tree, split, size=size, augment=None, seed=0)
        super().__init__(images, mean=mean, std=std, device=device, workers=workers)
        mine = [(0, image) for image in range(rank, self.samples, world_size)]
        starts = range(0, len(mine), batch_size)
        self._batches = [mine[start : start + batch_size] for start in starts]

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, index: int = 0, first_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches; every epoch is the same.

        Yields:
            ``(B, 3, S, S)`` float32 and ``(B,)`` int64.
        """
        return self._pass(self._batches[first_batch:])
