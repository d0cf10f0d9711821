"""Roboflow's COCO export: ``_annotations.coco.json`` beside the images of each split."""

from pathlib import Path

from .coco_files import read_coco_files
from .export import Export, by_split, subfolders

LOOKS_FOR = "train|valid|test/_annotations.coco.json, or _annotations.coco.json, beside the images"
_FILE = "_annotations.coco.json"


def fits(folder: Path) -> bool:
    """Return whether a folder looks like this format."""
    return bool(_files(folder))


def read(folder: Path) -> Export:
    """Read a folder of this format."""
    files = _files(folder)
    return read_coco_files(
        folder,
        files,
        {split: [path.parent, path.parent / "images"] for split, path in files.items()},
    )


def _files(folder: Path) -> dict[str, Path]:
    """Return the COCO file of each split."""
    splits = by_split(path for path in subfolders(folder) if (path / _FILE).is_file())
    if not splits and (folder / _FILE).is_file():
        splits = {"train": folder}
    return {split: path / _FILE for split, path in splits.items()}
