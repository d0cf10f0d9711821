"""Folders that a labelling tool exported (DATASETS.FOLDERS), registered as COCO data sets.

A folder is read once a process. What was read is written as COCO files into a temporary folder,
as pycocotools and detectron2 read files; the user's folder is never written to.
"""

import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances

from pcka.errors import ConfigError, check_keys

from .coco_values import is_number, is_whole
from .entries import check_texts
from .formats.export import SPLITS, Export
from .formats.known import FORMATS, read_folder, recognise
from .splitting import split_training

_KEYS = ("NAME", "PATH", "FORMAT", "VALID_FRACTION", "SEED")
_SHOWN = 20  # problems of a folder, or classes, that a message lists

logger = logging.getLogger(__name__)


@dataclass
class Folder:
    """A folder as it was read.

    Attributes:
        entry: its entry in the config, with every default filled in.
        names: the names of its data sets.
        problems: why it cannot be used, each in one line.
        notes: how it was read.
    """

    entry: dict
    names: list[str]
    problems: list[str]
    notes: list[str]


_folders: dict[str, Folder] = {}  # by NAME
_written: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


def register_folders(cfg: CfgNode) -> None:
    """Register the splits of every entry of DATASETS.FOLDERS that is not registered yet.

    Raises:
        ConfigError: an entry with wrong keys, a folder of no known format, a name that is taken.
    """
    for index, given in enumerate(cfg.DATASETS.FOLDERS):
        where = f"DATASETS.FOLDERS[{index}]"
        entry = _filled(given, where)
        path = Path(cfg.DATASETS.COCO_ROOT).expanduser() / Path(entry["PATH"]).expanduser()
        entry["PATH"] = os.path.abspath(path)
        known = _folders.get(entry["NAME"])
        if known is None:
            _folders[entry["NAME"]] = _register(entry, path, where)
        elif known.entry != entry:
            raise ConfigError(
                f"{where}: the name {entry['NAME']!r} already stands for {known.entry['PATH']} "
                f"as {_options(known.entry)}: choose another NAME"
            )


def folder_problems(cfg: CfgNode, name: str) -> list[str] | None:
    """Return the problems of the folder that a data set is from; None where it is from none."""
    for entry in cfg.DATASETS.FOLDERS:
        folder = _folders.get(entry["NAME"])
        if folder and name in folder.names:
            rest = len(folder.problems) - _SHOWN
            more = [f"and {rest} more problems of this folder"] if rest > 0 else []
            return folder.problems[:_SHOWN] + more
    return None


def log_folders(cfg: CfgNode) -> None:
    """Log how the folders of DATASETS.FOLDERS were read."""
    for entry in cfg.DATASETS.FOLDERS:
        if folder := _folders.get(entry["NAME"]):
            for note in folder.notes:
                logger.info("%s: %s", folder.entry["PATH"], note)


def folder_names(cfg: CfgNode) -> list[str]:
    """Return the names of the data sets that DATASETS.FOLDERS registered."""
    known = (_folders.get(entry["NAME"]) for entry in cfg.DATASETS.FOLDERS)
    return [name for folder in known if folder for name in folder.names]


def _filled(given: dict, where: str) -> dict:
    """Return an entry with its defaults."""
    check_keys(given, _KEYS, required=("NAME", "PATH"), where=where)
    entry = {"FORMAT": "", "VALID_FRACTION": None, "SEED": 0, **given}
    check_texts(entry, ("NAME", "PATH", "FORMAT"), where)
    if entry["FORMAT"] and entry["FORMAT"] not in FORMATS:
        raise ConfigError(
            f"{where}: FORMAT {entry['FORMAT']!r} is not known: one of {', '.join(FORMATS)}"
        )
    fraction = entry["VALID_FRACTION"]
    if fraction is not None and not (is_number(fraction) and 0 <= fraction < 1):
        raise ConfigError(
            f"{where}: VALID_FRACTION is from 0, for no validation set, up and below 1, got "
            f"{fraction!r}"
        )
    if not is_whole(entry["SEED"]):
        raise ConfigError(f"{where}: SEED is a whole number, got {entry['SEED']!r}")
    return entry


def _options(entry: dict) -> dict:
    return {key: entry[key] for key in ("FORMAT", "VALID_FRACTION", "SEED")}


def _register(entry: dict, path: Path, where: str) -> Folder:
    """Read a folder and register its splits."""
    name = entry["FORMAT"] or recognise(path, where)
    if not path.is_dir():
        raise ConfigError(f"{where}: no folder {str(path)!r}: check PATH and DATASETS.COCO_ROOT")
    if not FORMATS[name].fits(path):
        raise ConfigError(
            f"{where}: {path} is not of FORMAT {name!r}: looked for {FORMATS[name].LOOKS_FOR}"
        )
    export = read_folder(path, name)
    if not export.problems:
        split_training(export, entry["VALID_FRACTION"], entry["SEED"])
    if export.problems:  # nothing is registered; `check_datasets` reports them
        return Folder(entry, [f"{entry['NAME']}_{split}" for split in SPLITS], export.problems, [])
    names = {f"{entry['NAME']}_{split}": split for split in SPLITS if split in export.splits}
    taken = [dataset for dataset in names if dataset in DatasetCatalog]
    if taken:
        raise ConfigError(f"{where}: the data set {taken[0]!r} exists: choose another NAME")
    for dataset, split in names.items():
        register_coco_instances(dataset, {}, _write(dataset, export.splits[split]), str(path))
    notes = [_summary(name, names, export), *export.notes, *_shared_images(export)]
    return Folder(entry, list(names), [], notes)


def _shared_images(export: Export) -> list[str]:
    """Return how many training images validation and test have as well."""
    images = {s: {i["file_name"] for i in part["images"]} for s, part in export.splits.items()}
    shared = {s: len(images[s] & images.get("train", set())) for s in images if s != "train"}
    return [
        f"{count} images are in train and in {split}: AP on {split} counts images that were "
        "trained on"
        for split, count in shared.items()
        if count
    ]


def _summary(name: str, names: dict[str, str], export: Export) -> str:
    """Return the data sets, the numbers of their images, and the classes."""
    counts = [f"{dataset} ({len(export.splits[names[dataset]]['images'])})" for dataset in names]
    classes = [c["name"] for part in export.splits.values() for c in part["categories"]]
    classes = list(dict.fromkeys(classes))
    shown = classes[:_SHOWN] + ["..."] * (len(classes) > _SHOWN)
    return (
        f"read as {name}, data sets and their images: {', '.join(counts)}; {len(classes)} classes: "
        f"{', '.join(shown)}"
    )


def _write(name: str, content: dict) -> str:
    """Write a split as a COCO file that lives as long as this process."""
    if not _written:
        _written.append(tempfile.TemporaryDirectory(prefix="pcka-data-"))
    file = Path(_written[0].name, f"{name}.json")
    file.write_text(json.dumps(content), encoding="utf-8")
    return str(file)
