"""The common form of all formats: a COCO dictionary for each split of a folder."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from pcka.detection.data.coco_values import READ_FROM
from pcka.errors import ConfigError
from pcka.image_modes import orientation

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

SPLITS = ("train", "valid", "test")
_SPLIT_OF = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}


@dataclass
class Export:
    """The content of a folder, as a reader found it.

    Attributes:
        splits: ``train``, ``valid`` or ``test`` -> ``images``, ``annotations`` and ``categories``
            as in a COCO file. File names start from the folder. All splits share the categories.
        problems: reasons why training cannot start, each in one line with file and remedy.
        notes: differences between what was read and what is written, for the log.
    """

    splits: dict[str, dict] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Builder:
    """Collects the images and objects of one split as a COCO dictionary."""

    def __init__(self, classes: Sequence[str]):
        self.content: dict = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
        }

    def add_image(self, file_name: str, width: int, height: int) -> None:
        """Add an image; the objects that are added next are its objects."""
        images = self.content["images"]
        images.append(
            {"id": len(images) + 1, "file_name": file_name, "width": width, "height": height}
        )

    def add_object(
        self,
        index: int,
        corners: Sequence[float],
        read_from: str,
        *,
        polygon: Sequence[float] = (),
        crowd: bool = False,
    ) -> None:
        """Add an object of the last image.

        Args:
            index: the number of its class.
            corners: left, top, right and bottom in pixels.
            read_from: file and line, for messages.
            polygon: ``x1, y1, x2, y2, ...`` in pixels, if its outline is known.
            crowd: whether it is left out of training and of AP.
        """
        # Labels as fractions have six digits: a thousandth of a pixel is what they can say.
        left, top, right, bottom = (round(value, 3) for value in corners)
        width, height = round(right - left, 3), round(bottom - top, 3)
        outline = [round(value, 3) for value in polygon]
        annotations = self.content["annotations"]
        annotations.append(
            {
                "id": len(annotations) + 1,  # pycocotools reads the id 0 as "no match"
                "image_id": len(self.content["images"]),
                "category_id": index + 1,
                "bbox": [left, top, width, height],
                "area": _area(outline) if outline else round(width * height, 3),
                "iscrowd": int(crowd),
                READ_FROM: read_from,
                **({"segmentation": [outline]} if outline else {}),
            }
        )


def split_of(name: str) -> str | None:
    """Return ``train``, ``valid`` or ``test`` for a name such as ``val2017``; None for others."""
    return _SPLIT_OF.get(re.sub(r"[-_ ]?\d*$", "", name).lower())


def by_split(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the paths that are named after a split, by split.

    Raises:
        ConfigError: two of them stand for one split.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        split = split_of(path.stem)
        if split and split in found:
            raise ConfigError(
                f"{found[split]} and {path} both stand for the split {split!r}: move one of them "
                "elsewhere"
            )
        if split:
            found[split] = path
    return found


def subfolders(folder: Path) -> list[Path]:
    """Return the folders inside a folder, none if it is not there."""
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def images_in(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted by name."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def files_in(folder: Path, suffix: str) -> list[Path]:
    """Return the files of a folder with a suffix, without the hidden ones that macOS adds."""
    found = folder.glob(f"*{suffix}") if folder.is_dir() else ()
    return sorted(path for path in found if not path.name.startswith("."))


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}: export it again") from error


def upright_size(path: Path) -> tuple[int, int] | None:
    """Return width and height of an image as detectron2 reads it, None if it is damaged."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = orientation(image) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, TypeError, EOFError, Image.DecompressionBombError):
        return None
    return (height, width) if turned else (width, height)


def relative(path: Path, folder: Path) -> str:
    """Return a path as it is named inside the folder."""
    return os.path.relpath(path, folder)


def _area(outline: Sequence[float]) -> float:
    """Return the area of a polygon ``x1, y1, x2, y2, ...``."""
    points = list(zip(outline[::2], outline[1::2], strict=True))
    following = points[1:] + points[:1]
    doubled = sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))
    return round(abs(doubled) / 2, 3)
