"""Checks of the image files of a COCO data set: the headers of all, the pixels of a sample."""

import logging
import os
from collections.abc import Sequence

from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image

from pcka.image_modes import CONVERSION, DEEP_MODES, orientation

from .coco_values import describe

_TURNED = (5, 6, 7, 8)  # orientations that exchange width and height
_SAMPLE = 64  # images whose pixels are read

logger = logging.getLogger(__name__)


def check_images(images: list[dict], folder: str) -> list[str]:
    """Return the problems of the image files that a COCO file lists.

    Args:
        images: entries with ``file_name``, ``width`` and ``height``.
        folder: the folder that the names start from.
    """
    paths = {image["file_name"]: os.path.join(folder, image["file_name"]) for image in images}
    missing = [name for name, path in paths.items() if not os.path.isfile(path)]
    faults: dict[str, list[str]] = {kind: [] for kind in _REMEDIES}
    oriented = []
    for image in images:
        name = image["file_name"]
        if name in missing:
            continue
        kind, detail, turned = _judge(paths[name], image["width"], image["height"])
        if kind:
            faults[kind].append(f"{name} ({detail})" if detail else name)
        elif turned:
            oriented.append(name)
    if not any(faults.values()):
        present = [path for name, path in paths.items() if name not in missing]
        step = max(1, -(-len(present) // _SAMPLE))
        broken = [path for path in present[::step] if not _decodes(path)]
        faults["damaged image file(s)"] += [os.path.relpath(path, folder) for path in broken]
    if oriented:
        logger.warning(
            "%d image(s), such as %s, have an EXIF orientation: detectron2 turns them upright, so "
            "their boxes have to be those of the upright image",
            len(oriented),
            oriented[0],
        )
    where = f"put them under {folder} or drop them from the annotations"
    problems = describe("image file(s) missing", sorted(missing), where)
    for kind, names in faults.items():
        problems += describe(kind, names, _REMEDIES[kind])
    return problems


def check_shapes(images: list[dict], resizings: Sequence[tuple[str, int, int]]) -> list[str]:
    """Return the images that are so elongated that resizing leaves no row or column of them.

    Args:
        images: entries with ``file_name``, ``width`` and ``height``.
        resizings: TRAIN or TEST, and its INPUT.MIN_SIZE and INPUT.MAX_SIZE.
    """
    problems = []
    for split, short, longest in resizings:
        lost = [
            f"{i['file_name']} ({i['height']}x{i['width']})"
            for i in images
            if short > 0
            and min(ResizeShortestEdge.get_output_shape(i["height"], i["width"], short, longest))
            < 1
        ]
        problems += describe(
            f"image(s) of which INPUT.MAX_SIZE_{split} {longest} leaves no row or column",
            lost,
            f"raise INPUT.MAX_SIZE_{split}, or cut these images into parts",
        )
    return problems


_REMEDIES = {
    "damaged image file(s)": "restore them or drop them from the annotations",
    "image(s) of more pixels than Pillow opens": "make them smaller, with their boxes",
    "image(s) of another size than the annotations say": "correct height and width",
    "image(s) with an EXIF orientation and the size of the image before it is turned": (
        "detectron2 turns them upright: annotate the upright images, or save them without the "
        "orientation if the boxes are those of the image as stored: image = Image.open(FILE); "
        "Image.fromarray(numpy.asarray(image)).save(FILE)"
    ),
    "image(s) of more than 8 bits a channel, which would be clipped at 255": CONVERSION,
}
_DAMAGED, _GIANT, _SIZE, _EXIF, _DEEP = _REMEDIES


def _judge(path: str, width: int, height: int) -> tuple[str, str, bool]:
    """Read a header; return the kind of fault, a detail, and whether it has an orientation."""
    try:
        with Image.open(path) as image:
            mode, found = image.mode, image.size
            turn = orientation(image)
    except Image.DecompressionBombError:
        return _GIANT, "", False
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, OverflowError):
        return _DAMAGED, "", False
    if mode in DEEP_MODES:
        return _DEEP, f"mode {mode}", False
    turned = turn in _TURNED
    upright = found[::-1] if turned else found
    if upright == (width, height):
        return "", "", turn != 1
    kind = _EXIF if turned and found == (width, height) else _SIZE
    return kind, f"{upright[1]}x{upright[0]}, annotated {height}x{width}", False


def _decodes(path: str) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, OverflowError):
        return False
    return True
