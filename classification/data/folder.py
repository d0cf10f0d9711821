"""A folder or .zip of images: decoded once into memory, or checked where it lies."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from pcka.errors import ConfigError

from .files import resize_and_crop
from .image_tree import ImageTree, Split
from .pixels import UNREADABLE, check_header, is_turned
from .tensors import ImageSet

_SAMPLE = 64  # images on disk whose pixels are read before training

logger = logging.getLogger(__name__)


def common_size(tree: ImageTree, split: Split) -> int:
    """Return the side of the square images, from the first one of ``split``.

    Raises:
        ConfigError: it is not square, so that a size has to be chosen.
    """
    name = split.names[0]
    width, height = tree.open(name).size
    if width != height:
        raise ConfigError(
            f"{tree.root}/{name} has {width}x{height} pixels: set data.image_size, to which images "
            "are then resized and cut"
        )
    return width


def read_images(tree: ImageTree, split: Split, *, size: int, resize: bool, what: str) -> ImageSet:
    """Decode the images of ``split`` with a pool of threads.

    Args:
        tree: where they are.
        split: which ones.
        size: side in pixels.
        resize: bring images of another size to ``size``: shorter side, then the middle.
        what: word for the progress bar.

    Raises:
        ConfigError: names the file that cannot be decoded, or has another size.
    """
    images = np.empty((len(split.names), 3, size, size), dtype=np.uint8)
    turned: list[str] = []

    def read(position: int) -> None:
        name = split.names[position]
        image = tree.open(name)
        orientation = ""
        if is_turned(image):
            turned.append(name)
            orientation = " before its EXIF orientation, which is not applied"
        if image.size != (size, size):
            if not resize:
                width, height = image.size
                raise ConfigError(
                    f"{tree.root}/{name} has {width}x{height} pixels{orientation}, others "
                    f"{size}x{size}: set "
                    "data.image_size, to which all are then resized and cut"
                )
            image = resize_and_crop(image, size)
        images[position] = np.asarray(image).transpose(2, 0, 1)

    _in_threads(read, range(len(split.names)), what)
    _warn_of(turned)
    return ImageSet(torch.from_numpy(images), torch.tensor(split.labels))


def check_files(tree: ImageTree, splits: Sequence[Split]) -> None:
    """Check images that stay on disk: the headers of all, the pixels of a sample.

    Raises:
        ConfigError: names the first file that cannot be read, or has more than 8 bits a channel.
    """
    names = [name for split in splits for name in split.names]
    turned: list[str] = []

    def look(name: str) -> None:
        try:
            with tree.stream(name) as file, Image.open(file) as image:
                check_header(image, f"{tree.root}/{name}")
                if is_turned(image):
                    turned.append(name)
        except ConfigError:
            raise
        except (*UNREADABLE, Image.DecompressionBombError):
            tree.open(name)  # raises the message that names the file

    _in_threads(look, names, "headers of images")
    _in_threads(tree.open, names[:: -(-len(names) // _SAMPLE)], "images")
    _warn_of(turned)


def _warn_of(turned: list[str]) -> None:
    if turned:
        logger.warning(
            "%d image(s), such as %s, have an EXIF orientation, which is not applied (as in "
            "torchvision): save them upright if they lie on their side",
            len(turned),
            min(turned),
        )


def _in_threads(work: Callable[[Any], object], items: Iterable[Any], what: str) -> None:
    """Call ``work`` for every item, several at a time, with a progress bar."""
    items = list(items)
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        for _ in tqdm(
            pool.map(work, items), total=len(items), desc=what, unit="image", disable=None
        ):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
