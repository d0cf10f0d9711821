"""Digits scenes: a detection data set in COCO format that needs no download.

Every scene holds 3 to 8 handwritten digits, 14 to 40 pixels high, lighter than the clutter and
noise they stand on. The digits are the 1,797 scans of 8x8 pixels that come with scikit-learn, split
*by scan*, so that no scan appears in two sets:

``digits_train``  1,200 scenes, 70 % of the scans.
``digits_tune``     200 scenes, 10 %. Choose weights, schedules and checkpoints on these, so that
                    no reported figure rests on images that took part in a choice.
``digits_val``      200 scenes, 20 %. Only for the figures that are reported.

The files lie in ``$DETECTRON2_DATASETS/digits_scenes`` (``datasets/digits_scenes`` by default) and
are made when one of the sets is first asked for. That takes a few seconds and gives the same bytes
every time.
"""

import json
import logging
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

from .digit_scenes import CANVAS, load_glyphs, make_scene, seeded_rng

SCENES = {"train": 1200, "tune": 200, "val": 200}
SCAN_SHARE = {"train": 0.7, "tune": 0.1, "val": 0.2}
CLASSES = [str(digit) for digit in range(10)]
RECIPE = 1  # to be raised with any change that alters a pixel or a box

logger = logging.getLogger(__name__)


def register_digits() -> None:
    """Register the three sets in detectron2's catalogs, once; no file is made yet."""
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
        glyphs, labels = load_glyphs()
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
    rng = seeded_rng(0)
    ends = np.cumsum(list(SCAN_SHARE.values()))[:-1]
    parts = []
    for label in np.unique(labels):
        scans = rng.permutation(np.flatnonzero(labels == label))
        parts.append(np.split(scans, np.rint(ends * len(scans)).astype(int)))
    return {
        split: np.sort(np.concatenate(part))
        for split, part in zip(SCAN_SHARE, zip(*parts, strict=True), strict=True)
    }


def _make(path: Path, about: dict, glyphs: list, labels: np.ndarray, scans: dict) -> None:
    """Write all sets into a temporary folder beside ``path`` and rename it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".digits_scenes-", dir=path.parent))
    try:
        # Use a folder inside, because mkdtemp makes its own unreadable for other users.
        fresh = temporary / path.name
        fresh.mkdir()
        for number, (split, count) in enumerate(about["scenes"].items(), start=1):
            _write_split(fresh, split, count, number, glyphs, labels, scans[split])
        (fresh / "about.json").write_text(json.dumps(about))
        try:
            fresh.rename(path)
        except OSError:
            if not path.exists():  # otherwise another process made the same bytes first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_split(
    folder: Path, split: str, count: int, number: int, glyphs: list, labels: np.ndarray, scans
) -> None:
    """Write the scenes of one split and their COCO json; its ``scan`` keys allow an audit."""
    images: list[dict] = []
    annotations: list[dict] = []
    json_file, image_root = _locations(folder, split)
    os.mkdir(image_root)
    for index in range(count):
        pixels, placed = make_scene(glyphs, scans, seeded_rng(number, index))
        name, image_id = f"{index:06d}.png", index + 1
        picture = Image.fromarray(pixels).convert("RGB")
        # Noise does not compress: a higher level would take 4 s more and save nothing.
        picture.save(os.path.join(image_root, name), compress_level=1)
        images.append({"id": image_id, "file_name": name, "height": CANVAS, "width": CANVAS})
        for scan, box in placed:
            annotations.append(
                {
                    "id": len(annotations) + 1,  # COCOeval reads an id of 0 as "no match"
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
    """Return detectron2's dataset dicts of one split, for the catalog."""
    return load_coco_json(*_locations(ensure_digits(root), split), name)


def _locations(path: Path, split: str) -> tuple[str, str]:
    """Return the json file and the image folder of one split."""
    return str(path / f"{split}.json"), str(path / split)
