"""Images for classification: ``build_data(cfg.data, ...)`` makes loaders to train and evaluate.

A loader has ``__len__`` (batches of an epoch), ``samples`` (images of an epoch, over all processes)
and ``epoch(index, first_batch=0)``, an iterator of ``(B, 3, H, W)`` float32, normalised, and
``(B,)`` int64, both on the device. A training batch is a function of (seed, epoch, number of the
batch), so that a run can be taken up at any batch.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from pcka.classification.config_sections import DataConfig
from pcka.errors import ConfigError

from .batches import split_per_class
from .cifar import read_cifar
from .contents import describe, majority
from .digits import read_digits
from .files import FileEvalLoader, FileTrainLoader
from .folder import check_files, common_size, read_images
from .image_tree import ImageTree, Split
from .tensors import ImageSet, TensorEvalLoader, TensorTrainLoader

__all__ = ["Data", "EvaluationData", "Loader", "build_data", "build_evaluation_data"]

logger = logging.getLogger(__name__)


class Loader(Protocol):
    """A source of batches, as training needs it."""

    samples: int

    def __len__(self) -> int: ...

    def epoch(self, index: int, first_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class Data:
    """Loaders of one data set.

    Attributes:
        train, val: the loaders.
        classes: names in the order of their labels.
        image_size: side in pixels.
        majority: share of the most frequent class among the evaluated images.
        record: the values that identify these images.
    """

    train: Loader
    val: Loader
    classes: tuple[str, ...]
    image_size: int
    majority: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationData:
    """The evaluated images alone; see :class:`Data`."""

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
        seed: the seed of order and augmentation, equal on all processes.
        device: where batches, and small data sets as a whole, are put.
        rank, world_size: this process and the number of all.

    Raises:
        ConfigError: data that is missing, incomplete or damaged; names the file and the remedy.
    """
    options = _options(cfg, device, rank, world_size)
    train_options = {"batch_size": batch_size, "seed": seed, "flip": cfg.flip, **options}
    # A GPU evaluates small images in larger batches, or starting kernels takes most of the time.
    eval_size = batch_size if torch.device(device).type == "cpu" else max(batch_size, 1000)
    eval_options = {"batch_size": -(-eval_size // world_size), **options}
    train: Any
    val: Any
    splits = None
    if cfg.name in ("folder", "imagenet"):
        tree = ImageTree(cfg.root)
        splits = _tree_splits(tree, cfg.holdout)
        classes, size = tree.classes, cfg.image_size or common_size(tree, splits[0])
        train, val = splits
        if _fits_in_memory(cfg, tree, splits, size):
            train, val = (
                read_images(tree, split, size=size, resize=cfg.image_size is not None, what=what)
                for split, what in zip(
                    splits, ("training images", "evaluation images"), strict=True
                )
            )
        elif rank == 0:
            check_files(tree, splits)
    else:
        train, val, classes = _small_set(cfg)
        size = train.images.shape[-1]
    train_loader: Loader
    val_loader: Loader
    if isinstance(train, ImageSet):
        train_loader = TensorTrainLoader(train, padding=cfg.crop_padding, **train_options)
        val_loader = TensorEvalLoader(val, **eval_options)
    else:
        disk: dict[str, Any] = {"size": size, "workers": cfg.workers}
        train_loader = FileTrainLoader(tree, train, **disk, **train_options)
        val_loader = FileEvalLoader(tree, val, **disk, **eval_options)
    record = describe(classes, size, train, val, splits)
    return Data(train_loader, val_loader, classes, size, majority(val.labels), record)


def build_evaluation_data(
    cfg: DataConfig,
    *,
    batch_size: int,
    device: torch.device | str,
    rank: int = 0,
    world_size: int = 1,
) -> EvaluationData:
    """Read the evaluated images alone; a folder of images then needs no ``train``.

    See :func:`build_data` for arguments and errors.
    """
    loader: Loader
    options = _options(cfg, device, rank, world_size)
    options["batch_size"] = -(-batch_size // world_size)
    if cfg.name not in ("folder", "imagenet"):
        _, val, classes = _small_set(cfg)
        return EvaluationData(TensorEvalLoader(val, **options), classes, val.images.shape[-1])
    tree = ImageTree(cfg.root, train=cfg.holdout > 0)
    split = _tree_splits(tree, cfg.holdout)[1] if cfg.holdout else tree.evaluation()
    size = cfg.image_size or common_size(tree, split)
    if _fits_in_memory(cfg, tree, (split,), size):
        resize = cfg.image_size is not None
        images = read_images(tree, split, size=size, resize=resize, what="evaluation images")
        loader = TensorEvalLoader(images, **options)
    else:
        if rank == 0:
            check_files(tree, (split,))
        loader = FileEvalLoader(tree, split, size=size, workers=cfg.workers, **options)
    return EvaluationData(loader, tree.classes, size)


def _options(cfg: DataConfig, device: Any, rank: int, world_size: int) -> dict[str, Any]:
    """Return the arguments that all loaders share."""
    mean, std = cfg.statistics
    return {"mean": mean, "std": std, "device": device, "rank": rank, "world_size": world_size}


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


def _fits_in_memory(cfg: DataConfig, tree: ImageTree, splits: Sequence[Split], size: int) -> bool:
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
