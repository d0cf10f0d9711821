"""scikit-learn's handwritten digits, enlarged: a data set that needs no download."""

import torch
import torch.nn.functional as F

from .batches import split_per_class
from .tensors import ImageSet

_SIZE = 32
_TEST_SHARE = 0.2


def read_digits() -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read the 1,797 scans of 8x8 pixels at 32x32, grey in three channels.

    Returns:
        training images (four of five scans of every digit), test images (the others), classes.
    """
    # Imported lazily: scikit-learn is slow to import, and only this data set needs it.
    from sklearn.datasets import load_digits

    scans = load_digits()
    grey = torch.from_numpy(scans.images).float()[:, None] * (255 / 16)  # 17 levels
    grey = F.interpolate(grey, size=(_SIZE, _SIZE), mode="bilinear", align_corners=False)
    images = grey.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    digits = ImageSet(images, torch.from_numpy(scans.target).long())
    train, test = split_per_class(digits.labels, _TEST_SHARE)
    return digits.subset(train), digits.subset(test), tuple(str(name) for name in range(10))
