"""Digits scenes: a detection data set in COCO format that needs no download.

Every scene holds 3 to 8 handwritten digits, 14 to 40 pixels high, lighter than the clutter and
noise they stand on. The digits are the 1,797 scans of 8x8 pixels that come with scikit-learn. They
are split *by scan*, so that no scan appears in two sets:

``digits_train``  1,200 scenes, 70 % of the scans.
``digits_tune``     200 scenes, 10 %. Choose weights, schedules and checkpoints on these, so that
                    a reported figure never rests on images that took part in a choice.
``digits_val``      200 scenes, 20 %. For the figures that are reported, and nothing else.

The files lie in ``$DETECTRON2_DATASETS/digits_scenes`` (``datasets/digits_scenes`` by default) and
are made when one of the sets is first asked for: a few seconds, the same bytes every time.

Letters: S side of the canvas, H and W size of a drawn digit, all in pixels.
"""

import json
import logging
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

SCENES = {"train": 1200, "tune": 200, "val": 200}
SCAN_SHARE = {"train": 0.7, "tune": 0.1, "val": 0.2}
CLASSES = [str(digit) for digit in range(10)]
CANVAS = 128
DIGITS_PER_SCENE = (3, 8)
DIGIT_HEIGHT = (14, 40)
OVERLAP = 0.1  # of the smaller box, at most
CONTRAST = (45, 130)  # grey levels by which ink is lighter than the background under it
INK = 64  # an opacity, 0 to 255: from here on a pixel belongs to the digit and its box
RECIPE = 1  # raise it with any change that alters a pixel or a box

_MARGIN = 2  # pixels around the box into which the soft edge of a digit may reach
_ZOOM = 16  # the scans are enlarged once; the digits of the scenes are reductions of that
_PAD = 2  # empty scan pixels around a scan, for the same soft edge
_TRIES = 100

logger = logging.getLogger(__name__)


class Glyph(NamedTuple):
    """A scan, enlarged."""

    opacity: Image.Image  # mode "L"
    ink: tuple[int, int, int, int]  # left, top, right, bottom of its ink


def register_digits() -> None:
    """Enter the three sets in detectron2's catalogs; nothing is made yet. Harmless to repeat."""
    folder = Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser().absolute()
    for split in SCENES:
        name = f"digits_{split}"
        if name in DatasetCatalog:
            continue
        json_file, image_root = _locations(folder / "digits_scenes", split)
        DatasetCatalog.register(name, partial(_load, name, folder, split))
        MetadataCatalog.get(name).set(
            json_file=json_file,
            image_root=image_root,
            evaluator_type="coco",
            thing_classes=list(CLASSES),
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(CLASSES))},
        )


def ensure_digits(root: str | os.PathLike, scenes: dict[str, int] | None = None) -> Path:
    """Make the sets under ``root`` unless they are there.

    Args:
        root: the folder of all data sets; it is made if missing.
        scenes: split -> number of scenes. Fewer are the first ones of the full set.

    Returns:
        ``root/digits_scenes``, complete: it appears by one rename, so neither a killed process
        nor two that start at once leave half a set.

    Raises:
        OSError: ``root`` cannot be written, or the disk is full.
        ValueError: the folder is there, but holds something else.
    """
    root, scenes = Path(root), dict(SCENES if scenes is None else scenes)
    path, about = root / "digits_scenes", {"recipe": RECIPE, "scenes": scenes}
    if not path.exists():
        glyphs, labels = _load_glyphs()
        scans = split_scans(labels)
        logger.info("Making the digits scenes in %s, once: a few seconds.", path)
        try:
            _make(path, about, glyphs, labels, scans)
        except OSError as error:
            raise OSError(
                f"Cannot write the digits scenes to {path} ({error}). Set the environment variable "
                "DETECTRON2_DATASETS to a folder that can be written and has 50 MB free."
            ) from error
    _check(path, about)
    return path


def split_scans(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Deal the scans out to the splits, each class in the shares of ``SCAN_SHARE``.

    Args:
        labels: ``(N,)`` class of every scan.

    Returns:
        split -> sorted indices of its scans. Together they are ``0 .. N - 1``, each once.
    """
    rng = _rng(0)
    ends = np.cumsum(list(SCAN_SHARE.values()))[:-1]
    parts = []
    for label in np.unique(labels):
        scans = rng.permutation(np.flatnonzero(labels == label))
        parts.append(np.split(scans, np.rint(ends * len(scans)).astype(int)))
    return {
        split: np.sort(np.concatenate(part))
        for split, part in zip(SCAN_SHARE, zip(*parts, strict=True), strict=True)
    }


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
    side = CANVAS + 2 * _MARGIN  # the soft edge of a digit at the border falls into the margin
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
            if all(_overlap((x, y, w, h), other) <= OVERLAP for _, other in placed):
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
    """A glyph reduced to ``height`` pixels of ink: opacities ``(H + 2 margin, W + 2 margin)``."""
    left, top, right, bottom = glyph.ink
    scale = (bottom - top) / height
    width = max(1, round((right - left) / scale))
    edge = _MARGIN * scale
    box = (left - edge, top - edge, right + edge, bottom + edge)
    size = (width + 2 * _MARGIN, height + 2 * _MARGIN)
    return np.asarray(glyph.opacity.resize(size, Image.Resampling.BICUBIC, box=box))


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection of two xywh boxes over the smaller one's area."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(w, 0) * max(h, 0) / min(a[2] * a[3], b[2] * b[3])


def _load_glyphs() -> tuple[list[Glyph], np.ndarray]:
    """scikit-learn's scans, enlarged and with crisper strokes, and their classes ``(N,)``."""
    from sklearn.datasets import load_digits  # slow to import, and needed only once

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
        glyphs.append(Glyph(opacity, opacity.point(ink).getbbox()))
    return glyphs, labels


def _make(path: Path, about: dict, glyphs: list, labels: np.ndarray, scans: dict) -> None:
    """Write all sets into a temporary folder beside ``path`` and rename it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".digits_scenes-", dir=path.parent))
    try:
        # One level down: mkdtemp's own folder is closed to other users.
        fresh = temporary / path.name
        fresh.mkdir()
        for number, (split, count) in enumerate(about["scenes"].items(), start=1):
            _write_split(fresh, split, count, number, glyphs, labels, scans[split])
        (fresh / "about.json").write_text(json.dumps(about))
        try:
            fresh.rename(path)
        except OSError:
            if not path.exists():  # else another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_split(
    folder: Path, split: str, count: int, number: int, glyphs: list, labels: np.ndarray, scans
) -> None:
    """Write the scenes of one split and their COCO json. ``scan`` is there to audit the split."""
    images, annotations = [], []
    json_file, image_root = _locations(folder, split)
    os.mkdir(image_root)
    for index in range(count):
        pixels, placed = make_scene(glyphs, scans, _rng(number, index))
        name, image_id = f"{index:06d}.png", index + 1
        picture = Image.fromarray(pixels).convert("RGB")
        # Noise does not compress: a higher level takes 4 s more and saves nothing.
        picture.save(os.path.join(image_root, name), compress_level=1)
        images.append({"id": image_id, "file_name": name, "height": CANVAS, "width": CANVAS})
        for scan, box in placed:
            annotations.append(
                {
                    "id": len(annotations) + 1,  # COCOeval takes an id of 0 for "no match"
                    "image_id": image_id,
                    "category_id": int(labels[scan]) + 1,
                    "bbox": [float(v) for v in box],
                    "area": float(box[2] * box[3]),
                    "iscrowd": 0,
                    "scan": scan,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    Path(json_file).write_text(json.dumps(content))


def _check(path: Path, about: dict) -> None:
    """Stop if ``path`` was not made by this recipe."""
    try:
        found = json.loads((path / "about.json").read_text())
    except (OSError, ValueError):
        found = "something else"
    if found != about:
        raise ValueError(
            f"{path} should hold digits scenes of {about} but holds {found}. Remove it, to have it "
            "made again, or set the environment variable DETECTRON2_DATASETS to another folder."
        )


def _load(name: str, root: Path, split: str) -> list[dict]:
    """The catalog's entry: detectron2's dataset dicts of one split."""
    return load_coco_json(*_locations(ensure_digits(root), split), name)


def _locations(path: Path, split: str) -> tuple[str, str]:
    """The json file and the image folder of one split."""
    return str(path / f"{split}.json"), str(path / split)


def _rng(*key: int) -> np.random.RandomState:
    """Random numbers of their own for every key. RandomState: its streams are frozen for good."""
    return np.random.RandomState([20240111, *key])
