"""YOLO folders: class names in ``data.yaml``, one text file of labels for each image."""

import os
from pathlib import Path

from pcka.errors import ConfigError

from .export import (
    SPLITS,
    Builder,
    Export,
    by_split,
    files_in,
    images_in,
    read_lines,
    split_of,
    subfolders,
)
from .yolo_labels import add_image, label_file
from .yolo_names import NAMES_FILE, class_names, yaml_file

LOOKS_FOR = (
    "data.yaml, another YAML file alone, or classes.txt, with images/train and labels/train, "
    "train/images and train/labels, or images and labels, perhaps with train.txt and val.txt"
)


def fits(folder: Path) -> bool:
    """Return whether a folder looks like this format."""
    named = yaml_file(folder) or (folder / NAMES_FILE).is_file()
    return bool(named) and any(
        (place / "labels").is_dir() for place in (folder, *subfolders(folder))
    )


def read(folder: Path) -> Export:
    """Read a folder of this format; labels of images that have none are empty."""
    export = Export()
    try:
        names, about = class_names(folder)
        images = _image_lists(folder, about)
    except ConfigError as error:
        export.problems.append(str(error))
        return export
    for split, files in images.items():
        builder = Builder(names)
        for path in files:
            add_image(builder, path, folder, names, export.problems)
        export.splits[split] = builder.content
    _check_labels({path for files in images.values() for path in files}, folder, export)
    return export


def _check_labels(images: set[Path], folder: Path, export: Export) -> None:
    """Report labels of no image and labels of two; note labelled images that no split has."""
    image_of: dict[Path, Path] = {}
    for path in sorted(images):
        labels = label_file(path, folder)
        other = image_of.setdefault(labels, path)
        if other != path and labels.exists():
            export.problems.append(
                f"{labels} are the labels of {other} and of {path}: rename one image and its "
                "labels, or remove one"
            )
    places = {path.parent for path in image_of if "labels" in path.relative_to(folder).parts}
    others = {path for place in places for path in files_in(place, ".txt")} - image_of.keys()
    others = {path for path in others if path.name != NAMES_FILE}
    # A list may name some of the images, so an image that is not listed is looked for.
    unlisted = (
        others & {label_file(path, folder) for path in images_in(folder)} if others else set()
    )
    for stray in sorted(others - unlisted):
        export.problems.append(f"{stray} has no image: add the image, or remove the labels")
    if unlisted:
        export.notes.append(f"{len(unlisted)} labelled images are in no list: they are left out")


def _image_lists(folder: Path, about: dict) -> dict[str, list[Path]]:
    """Return the images of each split: by data.yaml where its paths exist, else by the layout."""
    places = {**_by_layout(folder), **_by_yaml(folder, about)}
    found: dict[str, list[Path]] = {}
    for split in SPLITS:
        images = [image for path in places.get(split, ()) for image in _listed(path, folder)]
        if images:
            found[split] = sorted(dict.fromkeys(images))
    if not found:
        raise ConfigError(f"{folder} has no images: looked for {LOOKS_FOR}")
    return found


def _by_layout(folder: Path) -> dict[str, list[Path]]:
    """Return the image folders of each split, or the lists of images beside one folder."""
    below = by_split(subfolders(folder / "images"))
    if below:
        return {split: [path] for split, path in below.items()}
    beside = by_split(path for path in subfolders(folder) if (path / "images").is_dir())
    if beside:
        return {split: [path / "images"] for split, path in beside.items()}
    if lists := by_split(files_in(folder, ".txt")):
        return {split: [path] for split, path in lists.items()}
    return {"train": [folder / "images"]} if (folder / "images").is_dir() else {}


def _by_yaml(folder: Path, about: dict) -> dict[str, list[Path]]:
    """Return the folders and lists of images that data.yaml names and that are in the folder."""
    places: dict[str, list[Path]] = {}
    for key in about:
        split = split_of(key) if key in ("train", "val", "valid", "test") else None
        values = about[key] if isinstance(about[key], list) else [about[key]]
        for value in values if split else ():
            place = _inside(folder, str(value))
            if place is not None:
                places.setdefault(str(split), []).append(place)
    return places


def _inside(folder: Path, written: str) -> Path | None:
    """Return the path in the folder that a path of another machine, or one after "..", means."""
    parts = [part for part in Path(written).parts if part not in ("..", ".", "/")]
    tails = [parts[n:] for n in range(len(parts))]
    # An end that names no split, such as images, would stand for the images of all of them.
    tails = tails[:1] + [tail for tail in tails[1:] if any(split_of(part) for part in tail)]
    return next((path for tail in tails if os.path.exists(path := folder.joinpath(*tail))), None)


def _listed(path: Path, folder: Path) -> list[Path]:
    """Return the images of a folder, or those that a text file lists."""
    if path.is_dir():
        return images_in(path)
    images = []
    for number, line in enumerate(read_lines(path), 1):
        parts = [part for part in line.strip().replace("\\", "/").split("/")]
        parts = [part for part in parts if part not in ("", ".", "..")]
        tails = [folder.joinpath(*parts[n:]) for n in range(len(parts))]
        image = next((tail for tail in tails if os.path.isfile(tail)), None)
        if parts and image is None:
            raise ConfigError(
                f"{path}:{number}: no image {line.strip()!r}: add it or drop the line"
            )
        images += [image] if image else []
    return images
