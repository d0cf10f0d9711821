"""One XML file of Pascal VOC."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pcka.errors import ConfigError

_LONGEST = 1e6  # pixels; Pillow opens less
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class Thing:
    """An object: its class, its corners (left, top, right, bottom), whether it is difficult."""

    name: str
    corners: tuple[float, ...]
    difficult: bool


@dataclass
class Annotation:
    """The image of a file, and its objects."""

    file_name: str
    width: int
    height: int
    objects: list[Thing]


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type, whose entities can name other files or grow without bound."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ConfigError("a document type (<!DOCTYPE ...>) is not read: remove it")


def read_annotation(path: Path) -> tuple[Annotation | None, list[str]]:
    """Read a file; return its content, None if it has no usable size, and its problems."""
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_Builder())).getroot()
    except ConfigError as error:
        return None, [str(error)]
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        return None, [f"is not XML: {error}: export it again"]
    width, height = (_number(root.find(f"size/{key}")) for key in ("width", "height"))
    if not (width and height and 1 <= width < _LONGEST and 1 <= height < _LONGEST):
        return None, ["has no size: add <size> with the width and the height of the image"]
    objects, problems = [], []
    for number, element in enumerate(root.iter("object"), 1):
        name = (element.findtext("name") or "").strip()
        corners = tuple(_number(element.find(f"bndbox/{key}")) for key in _CORNERS)
        if not name:
            problems.append(f"object {number} has no name: add <name>")
        elif None in corners:
            problems.append(
                f"object {number} ({name}) has no box or a wrong one: write <bndbox> with the "
                f"numbers {', '.join(_CORNERS)}"
            )
        else:
            difficult = (element.findtext("difficult") or "").strip() in ("1", "true", "True")
            objects.append(Thing(name, tuple(v for v in corners if v is not None), difficult))
    file_name = (root.findtext("filename") or "").strip()
    return Annotation(file_name, int(width), int(height), objects), problems


def _number(element: Any) -> float | None:
    """Return the finite number that an element holds, None if it is absent or holds none."""
    try:
        value = float(element.text)
    except (AttributeError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
