"""Label Studio's COCO export: ``result.json`` and ``images/``."""

from pathlib import Path

from .coco_files import read_coco_files
from .export import Export

LOOKS_FOR = "result.json with images"
_FILE = "result.json"


def fits(folder: Path) -> bool:
    """Return whether a folder looks like this format."""
    return (folder / _FILE).is_file()


def read(folder: Path) -> Export:
    """Read a folder of this format, which knows no splits: all of it is training data."""
    return read_coco_files(
        folder, {"train": folder / _FILE}, {"train": [folder / "images", folder]}
    )
