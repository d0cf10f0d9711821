"""Drawing one scene of handwritten digits: the pictures behind :mod:`.digits`.

Letters: S side of the canvas, H and W size of a drawn digit, all in pixels; N scans.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

CANVAS = 128
DIGITS_PER_SCENE = (3, 8)
DIGIT_HEIGHT = (14, 40)
OVERLAP = 0.1  # the largest share of the smaller box that another may cover
CONTRAST = (45, 130)  # grey levels by which ink is lighter than the background under it
INK = 64  # opacity, 0 to 255, from which a pixel belongs to the digit and its box
_MARGIN = 2  # pixels around the box into which the soft edge of a digit may reach
_ZOOM = 16  # the scans are enlarged once by this factor, and reduced for each scene
_PAD = 2  # empty pixels added around a scan, for the same soft edge
_TRIES = 100


class Glyph(NamedTuple):
    """An enlarged scan."""

    opacity: Image.Image  # mode "L"
    ink: tuple[int, int, int, int]  # left, top, right, bottom of its ink


def load_glyphs() -> tuple[list[Glyph], np.ndarray]:
    """Return scikit-learn's scans, enlarged and sharpened, and their classes, ``(N,)``."""
    # Imported lazily: slow to import, and needed only once.
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    scans = np.minimum(scans.reshape(-1, 8, 8) * 16, 255).astype(np.uint8)  # 0..16 -> 0..255
    scans = np.pad(scans, ((0, 0), (_PAD, _PAD), (_PAD, _PAD)))
    size = ((8 + 2 * _PAD) * _ZOOM,) * 2
    crisp = [min(255, max(0, (v - 80) * 2)) for v in range(256)]
    ink = [255 * (v >= INK) for v in range(256)]
    glyphs = []
    for scan in scans:
        # Pillow resizes mode "L" in integers: the same pixels on every machine.
        opacity = Image.fromarray(scan).resize(size, Image.Resampling.BICUBIC).point(crisp)
        box = opacity.point(ink).getbbox()
        assert box is not None  # every scan has ink
        glyphs.append(Glyph(opacity, box))
    return glyphs, labels


def make_scene(
    glyphs: list[Glyph], scans: np.ndarray, rng: np.random.RandomState
) -> tuple[np.ndarray, list[tuple[int, tuple[int, int, int, int]]]]:
    """Draw one scene.

    Args:
        glyphs: all scans, enlarged.
        scans: indices of those that may be used.

    Returns:
        The image ``(S, S)``, uint8, and per digit its scan and its box: x, y, width, height.
    """
    side = CANVAS + 2 * _MARGIN  # the margin takes the soft edge of a digit at the border
    canvas = np.full((side, side), rng.uniform(40, 120))
    for cells, strength in ((4, 40), (10, 22)):  # lighting, then blotches as large as the digits
        grid = Image.fromarray(rng.randint(0, 256, (cells, cells)).astype(np.uint8))
        field = np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC), np.float64)
        canvas += (field / 127.5 - 1) * strength

    placed: list[tuple[int, tuple[int, int, int, int]]] = []
    for _ in range(rng.randint(DIGITS_PER_SCENE[0], DIGITS_PER_SCENE[1] + 1)):
        scan = int(rng.choice(scans))
        height = rng.randint(DIGIT_HEIGHT[0], DIGIT_HEIGHT[1] + 1)
        for _ in range(_TRIES):
            opacity = _draw(glyphs[scan], height)
            ys, xs = np.nonzero(opacity >= INK)
            w, h = int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1
            x, y = rng.randint(0, CANVAS - w + 1), rng.randint(0, CANVAS - h + 1)
            if all(overlap((x, y, w, h), other) <= OVERLAP for _, other in placed):
                top, left = y + _MARGIN - ys.min(), x + _MARGIN - xs.min()
                patch = canvas[top : top + opacity.shape[0], left : left + opacity.shape[1]]
                patch += (patch.mean() + rng.uniform(*CONTRAST) - patch) * (opacity / 255.0)
                placed.append((scan, (x, y, w, h)))
                break
            height = max(DIGIT_HEIGHT[0], height - 1)  # crowded: a smaller one may fit
    canvas += rng.normal(0, rng.uniform(3, 12), canvas.shape)
    inner = canvas[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    return np.rint(inner).clip(0, 255).astype(np.uint8), placed


def _draw(glyph: Glyph, height: int) -> np.ndarray:
    """Return a glyph with ``height`` pixels of ink: opacities ``(H + 2 margin, W + 2 margin)``."""
    left, top, right, bottom = glyph.ink
    scale = (bottom - top) / height
    width = max(1, round((right - left) / scale))
    edge = _MARGIN * scale
    box = (left - edge, top - edge, right + edge, bottom + edge)
    size = (width + 2 * _MARGIN, height + 2 * _MARGIN)
    return np.asarray(glyph.opacity.resize(size, Image.Resampling.BICUBIC, box=box))


def overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Return the intersection of two xywh boxes over the area of the smaller one."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(w, 0) * max(h, 0) / min(a[2] * a[3], b[2] * b[3])


def seeded_rng(*key: int) -> np.random.RandomState:
    """Return a generator for a key; numpy has promised never to change RandomState's streams."""
    return np.random.RandomState([20240111, *key])
