"""The identity of a run's images: kept in its folder, and compared when the run is resumed."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .image_tree import Split
from .tensors import ImageSet


def describe(
    classes: Sequence[str],
    image_size: int,
    train: Any,
    val: Any,
    names: tuple[Split, Split] | None,
) -> dict[str, Any]:
    """Return class names, counts and checksums of a data set as plain values.

    Args:
        classes: names in the order of their labels.
        image_size: side in pixels.
        train, val: an ImageSet in memory, or the Split where the images stay on disk.
        names: the names of the images that were read from files.
    """
    record: dict[str, Any] = {
        "classes": list(classes),
        "image_size": image_size,
        "images are kept": "in memory" if isinstance(train, ImageSet) else "on disk",
    }
    for index, (part, images) in enumerate((("training", train), ("evaluated", val))):
        record[f"number of {part} images"] = len(images.labels)
        if names is not None:
            record[f"names of {part} images"] = _checksum("\n".join(names[index].names).encode())
        labels = torch.as_tensor(images.labels)
        record[f"labels of {part} images"] = _checksum(labels.numpy().tobytes())
        in_memory = isinstance(images, ImageSet)
        pixels = _checksum(images.images.contiguous().numpy().data) if in_memory else ""
        record[f"pixels of {part} images"] = pixels
    return record


def majority(labels: Sequence[int] | Tensor) -> float:
    """Return the share of the most frequent class among labels ``(N,)``."""
    return float(torch.as_tensor(labels).bincount().max()) / len(labels)


def _checksum(content: Any) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
