"""Sizes, anchors, patches and schedule that fit a data set, each by a rule of a line."""

import math
from dataclasses import dataclass

import numpy as np
from detectron2.data.transforms import ResizeShortestEdge

from pcka.core.patches import grid_shape

from .profile import Profile

# Images are not enlarged, unless they are very small, and not kept larger than detectron2 does.
_SHORTEST, _LONGEST = (256, 800), 1333
_STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
_PATCHES = 16  # of a level, at least
_FEWEST = 4  # patches; a level with fewer teaches nothing
_EPOCHS, _ITERATIONS = 24, 3000  # the longer of both


@dataclass(frozen=True)
class Choices:
    """The numbers of a config.

    Attributes:
        short, long: the shorter side after resizing, and the most of the longer one, in pixels.
        anchors: a size for each level, in pixels after resizing.
        ratios: the ratios of height to width of the anchors.
        levels: the features that the term reads, with the patch size of each.
        batch, iterations, steps, period: the schedule; ``period`` lies between two evaluations.
    """

    short: int
    long: int
    anchors: list[int]
    ratios: list[float]
    levels: dict[str, int]
    batch: int
    iterations: int
    steps: tuple[int, int]
    period: int


def choose(profile: Profile, anchor_levels: tuple[str, ...], levels: tuple[str, ...]) -> Choices:
    """Return what fits the data.

    Args:
        profile: the data.
        anchor_levels: the levels with anchors, such as ``("p2", ..., "p6")``.
        levels: the levels that a term may read.
    """
    short, long = _image_size(profile.sizes)
    scaled = np.array([resized(h, w, short, long) for h, w in profile.sizes])
    factors = scaled[:, 0] / profile.sizes[:, 0]
    boxes = profile.boxes[:, :2] * factors[profile.boxes[:, 2].astype(int), None]
    batch = next(size for most, size in ((500, 4), (2000, 8), (np.inf, 16)) if len(scaled) < most)
    iterations = max(_ITERATIONS, _rounded(_EPOCHS * len(scaled) / batch))
    return Choices(
        short=short,
        long=long,
        anchors=anchor_sizes(boxes, anchor_levels),
        ratios=anchor_ratios(boxes),
        levels=patch_sizes(scaled.min(0), levels),
        batch=batch,
        iterations=iterations,
        steps=(_rounded(iterations * 2 / 3), _rounded(iterations * 11 / 12)),
        period=_rounded(iterations / 10),
    )


def resized(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """Return the size of an image after detectron2's resizing."""
    return ResizeShortestEdge.get_output_shape(int(height), int(width), short, long)


def anchor_sizes(boxes: np.ndarray, levels: tuple[str, ...]) -> list[int]:
    """Return a size for each level: quantiles of the boxes ``(m, 2)``, of 2 to 16 strides."""
    sizes = np.sqrt(boxes.prod(1))
    found: list[int] = []
    for level, quantile in zip(levels, np.linspace(0.1, 0.9, len(levels)), strict=True):
        least = max(2 * _STRIDES[level], found[-1] * 1.25 if found else 0)
        most = 16 * _STRIDES[level]
        found.append(round(min(max(np.quantile(sizes, quantile), least), most)))
    return found


def anchor_ratios(boxes: np.ndarray) -> list[float]:
    """Return one to three ratios of height to width, from the boxes ``(m, 2)``."""
    ratios = boxes[:, 1] / boxes[:, 0]
    low, middle, high = (float(round(q, 1)) for q in np.quantile(ratios, (0.15, 0.5, 0.85)))
    found = [max(middle, 0.1)]
    if max(low, 0.1) < 0.75 * found[0]:
        found.insert(0, max(low, 0.1))
    if high > 1.33 * middle:
        found.append(high)
    return found


def patch_sizes(least: np.ndarray, levels: tuple[str, ...]) -> dict[str, int]:
    """Return the largest patch of each level that leaves 16 patches in the smallest image.

    Args:
        least: height and width in pixels after resizing.
        levels: such as ``("p2", "p3")``; those that are too small for four patches are left out.
    """
    found = {}
    for level in levels:
        height, width = (-(-int(side) // 32) * 32 // _STRIDES[level] for side in least)
        counts = {p: math.prod(grid_shape(height, width, p)) for p in (16, 8, 4, 2, 1)}
        fitting = [p for p, count in counts.items() if count >= _PATCHES]
        if fitting or counts[1] >= _FEWEST:
            found[level] = fitting[0] if fitting else 1
    return found


def _image_size(sizes: np.ndarray) -> tuple[int, int]:
    """Return the shorter side and the longest one, from the median image."""
    short = int(np.clip(np.median(sizes.min(1)), *_SHORTEST))
    ratio = np.quantile(sizes.max(1) / sizes.min(1), 0.95)
    return short, min(int(np.ceil(short * ratio)), max(_LONGEST, short))


def _rounded(number: float) -> int:
    """Round to two digits, and at least to a hundred."""
    step = max(100, 10 ** (len(str(int(number))) - 2))
    return max(step, round(number / step) * step)
