"""The formats that are known, and which of them a folder is in."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from pcka.errors import ConfigError

from . import cvat_coco, label_studio_coco, roboflow_coco, voc, yolo
from .export import Export, subfolders

# Name -> module with LOOKS_FOR, fits(folder) and read(folder).
FORMATS: Mapping[str, ModuleType] = {
    "roboflow_coco": roboflow_coco,
    "yolo": yolo,
    "voc": voc,
    "cvat_coco": cvat_coco,
    "label_studio_coco": label_studio_coco,
}


def recognise(folder: Path, where: str) -> str:
    """Return the name of the format that a folder is in.

    Args:
        folder: the folder that a labelling tool exported.
        where: the config key, which begins a message.

    Raises:
        ConfigError: no format fits, or more than one.
    """
    if not folder.is_dir():
        raise ConfigError(f"{where}: no folder {str(folder)!r}: check PATH and DATASETS.COCO_ROOT")
    found = _fitting(folder)
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{where}: {folder} fits {len(found)} formats: name the one to read, such as "
            f"FORMAT: {found[0]}, of {', '.join(found)}"
        )
    inside = next((path for path in subfolders(folder) if _fitting(path)), None)
    hint = f"; its subfolder fits: PATH: {inside}" if inside else ""
    looked = "; ".join(f"{name}: {module.LOOKS_FOR}" for name, module in FORMATS.items())
    raise ConfigError(f"{where}: {folder} is in no known format{hint}. Looked for {looked}")


def read_folder(folder: Path, name: str) -> Export:
    """Read a folder in the format of this name."""
    return FORMATS[name].read(folder)


def _fitting(folder: Path) -> list[str]:
    return [name for name, module in FORMATS.items() if module.fits(folder)]
