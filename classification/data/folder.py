"""A folder or .zip of images, decoded once into memory."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

from pcka.errors import ConfigError

from .files import resize_and_crop
from .image_tree import ImageTree, Split
from .tensors import ImageSet


def common_size(tree: ImageTree) -> int:
    """Side of the square images, from the first one.

    Raises:
        ConfigError: it is not square, so that a size has to be chosen.
    """
    name = tree.train().names[0]
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

    def read(position: int) -> None:
        name = split.names[position]
        image = tree.open(name)
        if image.size != (size, size):
            if not resize:
                width, height = image.size
                raise ConfigError(
                    f"{tree.root}/{name} has {width}x{height} pixels, others {size}x{size}: set "
                    "data.image_size, to which all are then resized and cut"
                )
            image = resize_and_crop(image, size)
        images[position] = np.asarray(image).transpose(2, 0, 1)

    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        positions = range(len(split.names))
        bar = tqdm(
            pool.map(read, positions), total=len(images), desc=what, unit="image", disable=None
        )
        for _ in bar:
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return ImageSet(torch.from_numpy(images), torch.tensor(split.labels))
