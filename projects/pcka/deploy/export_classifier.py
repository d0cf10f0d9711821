"""A classifier in the form in which it is exported: normalised images in, logits out.

Letters: B images, H, W height and width, K classes.
"""

import logging
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pcka.classification.data import build_evaluation_data
from pcka.errors import ConfigError

from .classifier import TrainedClassifier
from .exported_file import Traceable

logger = logging.getLogger(__name__)

_TRACED = 2  # images; not one, whose axis a tracer may drop


def traceable_classifier(classifier: TrainedClassifier, size: tuple[int, int]) -> Traceable:
    """Return a classifier as a module: ``(B, 3, H, W)`` -> ``logits`` ``(B, K)``, for any B."""
    dynamic = {"images": {0: "batch"}, "logits": {0: "batch"}}
    example = torch.randn(_TRACED, 3, *size, generator=torch.Generator().manual_seed(0))
    name = classifier.cfg.student.name
    return Traceable(name, classifier.model, example, ["logits"], dynamic, input="images")


def sample_images(
    classifier: TrainedClassifier, count: int, size: tuple[int, int]
) -> tuple[Tensor, str]:
    """Return the first evaluation images ``(B, 3, H, W)``, normalised, and their data set's name.

    Where the data are not here, the images are noise.
    """
    cfg = replace(classifier.cfg.data, workers=0)
    try:
        data = build_evaluation_data(cfg, batch_size=count, device="cpu")
        images, _ = next(iter(data.val.epoch(0)))
    except (ConfigError, OSError) as error:
        logger.warning("no validation images (%s): the file is checked on noise", error)
        return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1)), "noise"
    if tuple(images.shape[-2:]) != size:
        images = F.interpolate(images, size, mode="bilinear")
    return images[:count], cfg.name


def describe_classifier(classifier: TrainedClassifier, size: tuple[int, int]) -> dict[str, Any]:
    """Return what a program has to know to feed the file and to read its results."""
    mean, std = classifier.cfg.data.statistics
    # The shorter side is resized to this, then the middle is cut.
    shorter = round((classifier.ratio or 1.0) * min(size))
    return {
        "architecture": classifier.cfg.student.name,
        "classes": list(classifier.classes),
        "input": {
            "name": "images",
            "shape": ["batch", 3, *size],
            "type": "float32, (pixels / 255 - pixel_mean) / pixel_std",
            "channels": "RGB",
            "resize": {"shorter_side": shorter, "then_cut_the_middle": list(size)},
        },
        "pixel_mean": list(mean),
        "pixel_std": list(std),
        "normalization": "before the file",
        "outputs": {"logits": "(batch, classes) float32"},
    }
