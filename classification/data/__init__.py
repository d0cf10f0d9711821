"""Images for classification: ``build_data(cfg.data, ...)`` makes loaders to train and evaluate.

A loader has ``__len__`` (batches of an epoch), ``samples`` (images of an epoch, over all processes)
and ``epoch(index, first_batch=0)``, an iterator of ``(B, 3, H, W)`` float32, normalised, and
``(B,)`` int64, both on the device. A training batch is a function of (seed, epoch, number of the
batch), so that a run can be taken up at any batch.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pcka.classification.config_sections import DataConfig
from pcka.errors import ConfigError

from .batches import split_per_class
from .cifar import read_cifar
from .digits import read_digits
from .files import FileEvalLoader, FileTrainLoader
from .folder import common_size, read_images
from .image_tree import ImageTree, Split
from .tensors import ImageSet, TensorEvalLoader, TensorTrainLoader

__all__ = ["Data", "Loader", "build_data"]

logger = logging.getLogger(__name__)


class Loader(Protocol):
    """A source of batches, as training needs it."""

    samples: int

    def __len__(self) -> int: ...

    def epoch(self, index: int, first_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class Data:
    """Loaders of one data set; ``image_size`` is the side in pixels."""

    train: Loader
    val: Loader
    classes: tuple[str, ...]
    image_size: int


def build_data(
    cfg: DataConfig,
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    rank: int = 0,
    world_size: int = 1,
) -> Data:
    """Read the images that ``cfg`` names.

    Args:
        cfg: which images, and their augmentation.
        batch_size: images per training step of all processes together; each takes its share.
        seed: of order and augmentation, equal on all processes.
        device: where batches, and small data sets as a whole, are put.
        rank, world_size: this process and the number of all.

    Raises:
        ConfigError: data that is missing, incomplete or damaged; names the file and the remedy.
    """
    mean, std = cfg.statistics
    options: dict[str, Any] = {"mean": mean, "std": std, "device": device}
    options |= {"rank": rank, "world_size": world_size}
    train_options = {"batch_size": batch_size, "seed": seed, "flip": cfg.flip, **options}
    eval_options = {"batch_size": -(-batch_size // world_size), **options}
    if cfg.name in ("folder", "imagenet"):
        tree = ImageTree(cfg.root)
        size = cfg.image_size or common_size(tree)
        splits = _tree_splits(tree, cfg.holdout)
        classes = tree.classes
        if not _fits_in_memory(cfg, tree, splits, size):
            options = {"size": size, "workers": cfg.workers}
            return Data(
                FileTrainLoader(tree, splits[0], **options, **train_options),
                FileEvalLoader(tree, splits[1], **options, **eval_options),
                classes,
                size,
            )
        train, val = (
            read_images(tree, split, size=size, resize=cfg.image_size is not None, what=what)
            for split, what in zip(splits, ("training images", "evaluation images"), strict=True)
        )
    else:
        train, val, classes = _small_set(cfg)
    return Data(
        TensorTrainLoader(train, padding=cfg.crop_padding, **train_options),
        TensorEvalLoader(val, **eval_options),
        classes,
        train.images.shape[-1],
    )


def _small_set(cfg: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read the training and evaluation images of a data set of 32x32, and its classes."""
    if cfg.name == "digits":
        train, test, classes = read_digits()
    else:
        train, classes = read_cifar(cfg.name, cfg.root, train=True, download=cfg.download)
        test = None
    if cfg.holdout:
        kept, held = split_per_class(train.labels, cfg.holdout)
        return train.subset(kept), train.subset(held), classes
    if test is None:
        test, _ = read_cifar(cfg.name, cfg.root, train=False, download=cfg.download)
    return train, test, classes


def _tree_splits(tree: ImageTree, holdout: float) -> tuple[Split, Split]:
    train = tree.train()
    if not holdout:
        return train, tree.evaluation()
    kept, held = (indices.tolist() for indices in split_per_class(train.labels, holdout))
    return train.subset(kept), train.subset(held)


def _fits_in_memory(
    cfg: DataConfig, tree: ImageTree, splits: tuple[Split, Split], size: int
) -> bool:
    """Return whether the images are kept in memory; only a folder's can be.

    Raises:
        ConfigError: they cannot, and lie in a .zip, from which workers cannot read.
    """
    megabytes = sum(len(split.names) for split in splits) * 3 * size**2 / 2**20
    fits = cfg.name == "folder" and megabytes <= cfg.memory_mb
    if not fits and tree.is_zip:
        raise ConfigError(
            f"{tree.root} takes {megabytes:.0f} MB in memory, more than data.memory_mb "
            f"{cfg.memory_mb}: raise it, or extract the file and set data.root to the folder"
            if cfg.name == "folder"
            else f"data.root {tree.root} is a file: extract it and set data.root to the folder"
        )
    where = "in memory, padded and cut" if fits else "from disk, cut and resized at random"
    logger.info("%s: %.0f MB of %dx%d pixels, %s", tree.root, megabytes, size, size, where)
    return fits
