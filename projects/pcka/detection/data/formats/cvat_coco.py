"""CVAT's COCO export, and COCO's own layout: ``annotations/instances_*.json`` and images."""

from pathlib import Path

from pcka.errors import ConfigError

from .coco_files import read_coco_files
from .export import Export, by_split, split_of

LOOKS_FOR = "annotations/instances_*.json with images"
_PREFIX = "instances_"


def fits(folder: Path) -> bool:
    """Return whether a folder looks like this format."""
    return any((folder / "annotations").glob(f"{_PREFIX}*.json"))


def read(folder: Path) -> Export:
    """Read a folder of this format. A subset of another name alone, such as default, trains."""
    files = sorted((folder / "annotations").glob(f"{_PREFIX}*.json"))
    subsets = {path.stem.removeprefix(_PREFIX): path for path in files}
    splits = {split_of(name) for name in subsets}
    try:
        if len(files) == 1 and None in splits:
            named = {"train": next(iter(subsets))}
        elif None in splits:
            unknown = next(name for name in subsets if split_of(name) is None)
            raise ConfigError(
                f"{subsets[unknown]}: the subset {unknown!r} is none of train, val and test: "
                "rename it, or move it elsewhere"
            )
        else:
            named = {split: path.name for split, path in by_split(map(Path, subsets)).items()}
    except ConfigError as error:
        return Export(problems=[str(error)])
    images = folder / "images"
    return read_coco_files(
        folder,
        {split: subsets[name] for split, name in named.items()},
        {split: [images / name, images, folder / name, folder] for split, name in named.items()},
    )
