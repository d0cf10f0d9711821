"""The label files of YOLO folders: a line for each object, a class and a box or a polygon."""

import math
from collections.abc import Sequence
from pathlib import Path

from pcka.errors import ConfigError

from .export import Builder, read_lines, relative, upright_size

_SLACK = 0.01  # by which a label may lie outside its image; boxes are checked in pixels later


def label_file(image: Path, folder: Path) -> Path:
    """Return where the labels of an image lie: in ``labels`` if it is in ``images``."""
    parts = list(image.relative_to(folder).with_suffix(".txt").parts)
    for position in reversed(range(len(parts) - 1)):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return folder.joinpath(*parts)


def add_image(
    builder: Builder, path: Path, folder: Path, names: Sequence[str], problems: list[str]
) -> None:
    """Add an image and the objects of its label file, if there is one."""
    size = upright_size(path)
    if size is None:
        problems.append(f"{path} is damaged: restore it, or remove it and its labels")
        return
    builder.add_image(relative(path, folder), *size)
    labels = label_file(path, folder)
    if not labels.exists():
        return
    try:
        lines = read_lines(labels)
    except ConfigError as error:
        problems.append(str(error))
        return
    for number, line in enumerate(lines, 1):
        where = f"{relative(labels, folder)}:{number}"
        fault = _add_label(builder, line.split(), names, size, where)
        if fault:
            problems.append(f"{labels}:{number}: {fault}")


def _add_label(
    builder: Builder, words: list[str], names: Sequence[str], size: tuple[int, int], where: str
) -> str:
    """Add the object of a line; return what is wrong with it, or ""."""
    if not words:
        return ""
    try:
        first, *values = map(float, words)
    except ValueError:
        return f"{' '.join(words):.60} are not numbers: write class, x, y, width, height"
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        return (
            f"{len(words)} numbers: write class, x, y, width, height, or class and the corners of "
            "a polygon, without a confidence"
        )
    if first not in range(len(names)):
        return (
            f"class {words[0]}, but the names are numbered 0 to {len(names) - 1}: correct the "
            "number or add the name"
        )
    if not all(math.isfinite(v) and -_SLACK <= v <= 1 + _SLACK for v in values):
        return (
            f"{' '.join(words[1:5])}: coordinates are fractions of the width and the height of the "
            "image, from 0 to 1: divide pixels by them"
        )
    width, height = size
    if len(values) == 4:
        x, y, w, h = values
        xs = [(x - w / 2) * width, (x + w / 2) * width]
        ys = [(y - h / 2) * height, (y + h / 2) * height]
        polygon = []
    else:
        xs, ys = [v * width for v in values[::2]], [v * height for v in values[1::2]]
        polygon = [v for point in zip(xs, ys, strict=True) for v in point]
    builder.add_object(int(first), (min(xs), min(ys), max(xs), max(ys)), where, polygon=polygon)
    return ""
