"""Pascal VOC: an XML file of boxes for each image, in VOC's folders or beside the images."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pcka.errors import ConfigError

from .export import (
    IMAGE_SUFFIXES,
    SPLITS,
    Builder,
    Export,
    by_split,
    files_in,
    read_lines,
    relative,
    split_of,
    subfolders,
)
from .voc_xml import Annotation, read_annotation

LOOKS_FOR = (
    "Annotations/*.xml with JPEGImages and ImageSets/Main/train|val|trainval|test.txt, or *.xml "
    "beside the images, also in train|valid|test"
)
_ANNOTATIONS = ("Annotations", "annotations")
_IMAGES = ("JPEGImages", "images", "Images")
_LISTS = Path("ImageSets", "Main")
_TRAINING_AND_VALIDATION = "trainval.txt"


@dataclass
class _File:
    """An XML file, and the folders in which its image may lie."""

    path: Path
    image_folders: tuple[Path, ...]


def fits(folder: Path) -> bool:
    """Return whether a folder looks like this format."""
    return any(_has_xml(folder / name) for name in _ANNOTATIONS) or bool(_flat_folders(folder))


def read(folder: Path) -> Export:
    """Read a folder of this format. Objects that are marked as difficult become crowds."""
    export = Export()
    try:
        files = _beside(folder) or _by_lists(folder, export)
    except ConfigError as error:
        return Export(problems=[str(error)])
    annotations: dict[str, list[tuple[_File, Annotation]]] = {}
    for split, entries in files.items():
        annotations[split] = []
        for entry in entries:
            annotation, problems = read_annotation(entry.path)
            export.problems += [f"{entry.path}: {problem}" for problem in problems]
            if annotation:
                annotations[split].append((entry, annotation))
    every = [a for entries in annotations.values() for _, a in entries]
    names = sorted({o.name for a in every for o in a.objects})
    first = _first_pixel(every, export)
    for split, read_files in annotations.items():
        builder = Builder(names)
        xml_of: dict[str, Path] = {}
        for entry, annotation in read_files:
            image = relative(_image_of(entry, annotation), folder)
            if xml_of.setdefault(image, entry.path) != entry.path:
                export.problems.append(
                    f"{entry.path} and {xml_of[image]} are both of the image {image}: correct "
                    "<filename>, or remove one of them"
                )
            builder.add_image(image, annotation.width, annotation.height)
            for number, thing in enumerate(annotation.objects, 1):
                left, top, right, bottom = thing.corners
                builder.add_object(
                    names.index(thing.name),
                    (left - first, top - first, right, bottom),
                    f"{relative(entry.path, folder)} object {number}",
                    crowd=thing.difficult,
                )
        export.splits[split] = builder.content
    difficult = sum(o.difficult for a in every for o in a.objects)
    if difficult:
        export.notes.append(
            f"{difficult} objects are marked as difficult: they are read as crowds, left out of "
            "training and of AP"
        )
    return export


def _first_pixel(annotations: Iterable[Annotation], export: Export) -> int:
    """Return the number of an image's first pixel: 1 in VOC, 0 in the files of some tools."""
    corners = [o.corners for a in annotations for o in a.objects]
    # VOC's own files have a few fractions.
    fractional = sum(any(v != math.floor(v) for v in c) for c in corners)
    if any(min(c) < 1 for c in corners) or 2 * fractional > len(corners):
        export.notes.append("corners of boxes reach 0 or have fractions: pixels count from 0")
        return 0
    export.notes.append("corners of boxes are whole numbers from 1 up: pixels count from 1")
    return 1


def _has_xml(folder: Path) -> bool:
    return bool(files_in(folder, ".xml"))


def _flat_folders(folder: Path) -> dict[str, Path]:
    """Return the folders that hold XML files beside images, by split."""
    if any(_has_xml(folder / name) for name in _ANNOTATIONS):
        return {}
    splits = by_split(path for path in subfolders(folder) if split_of(path.name) and _has_xml(path))
    return splits or ({"train": folder} if _has_xml(folder) else {})


def _beside(folder: Path) -> dict[str, list[_File]]:
    return {
        split: [_File(path, (place,)) for path in files_in(place, ".xml")]
        for split, place in _flat_folders(folder).items()
    }


def _by_lists(folder: Path, export: Export) -> dict[str, list[_File]]:
    """Return the XML files of each split: all train where no list of ImageSets/Main names one."""
    place = next(folder / name for name in _ANNOTATIONS if _has_xml(folder / name))
    image_folders = tuple(folder / name for name in _IMAGES if (folder / name).is_dir())
    image_folders = (*image_folders, folder, place)
    lists = by_split(files_in(folder / _LISTS, ".txt"))
    both = folder / _LISTS / _TRAINING_AND_VALIDATION
    if not lists.keys() & {"train", "valid"} and both.is_file():
        lists["train"] = both
        export.notes.append(f"{relative(both, folder)} is read as the training images")
    files: dict[str, list[_File]] = {}
    for split in (split for split in SPLITS if split in lists):
        files[split] = []
        for number, line in enumerate(read_lines(lists[split]), 1):
            words = line.split()
            path = place / f"{words[0] if words else ''}.xml"
            if words and os.path.isfile(path):
                files[split].append(_File(path, image_folders))
            elif words:
                export.problems.append(
                    f"{lists[split]}:{number}: no file {path}: add it or drop the line"
                )
    if files:
        unlisted = {*files_in(place, ".xml")} - {
            f.path for entries in files.values() for f in entries
        }
        if unlisted:
            export.notes.append(f"{len(unlisted)} XML files are in no list: they are left out")
        return files
    return {"train": [_File(path, image_folders) for path in files_in(place, ".xml")]}


def _image_of(entry: _File, annotation: Annotation) -> Path:
    """Return the image of an XML file: as it names it, else of its own name."""
    named = annotation.file_name.replace("\\", "/").rsplit("/", 1)[-1]
    names = [named] if named else []
    names += [entry.path.stem + suffix for s in IMAGE_SUFFIXES for suffix in (s, s.upper())]
    places = [folder / name for name in names for folder in entry.image_folders]
    return next((place for place in places if os.path.isfile(place)), places[0])
