"""The class names of YOLO folders: ``names`` in a YAML file, or the lines of ``classes.txt``."""

from pathlib import Path
from typing import Any

from pcka.errors import ConfigError
from pcka.yaml_files import read_mapping

from .export import files_in, read_lines

NAMES_FILE = "classes.txt"
_YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


def class_names(folder: Path) -> tuple[list[str], dict]:
    """Return the names of the classes, and the mapping of data.yaml."""
    path = yaml_file(folder)
    if path is None:
        lines = read_lines(folder / NAMES_FILE)
        return _checked([line.strip() for line in lines if line.strip()], folder / NAMES_FILE), {}
    try:
        about = read_mapping(path, what="")
    except ConfigError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    names = about.get("names")
    if isinstance(names, dict):
        numbered = {str(key): name for key, name in names.items()}
        if numbered.keys() != {str(index) for index in range(len(names))}:
            raise ConfigError(
                f"{path}: names has the keys {list(names)[:5]}: number the classes 0, 1, 2, ..."
            )
        names = [numbered[str(index)] for index in range(len(names))]
    names = _checked(names, path)
    if str(about.get("nc") or len(names)) != str(len(names)):
        raise ConfigError(
            f"{path}: nc is {about['nc']} and names lists {len(names)}: correct one of them"
        )
    return names, about


def yaml_file(folder: Path) -> Path | None:
    """Return the file of the class names: data.yaml, or the only one of another name."""
    named = [folder / name for name in _YAML_FILES if (folder / name).is_file()]
    others = [path for suffix in (".yaml", ".yml") for path in files_in(folder, suffix)]
    return named[0] if named else others[0] if len(others) == 1 else None


def _checked(names: Any, path: Path) -> list[str]:
    if not isinstance(names, list) or not names:
        raise ConfigError(f"{path}: names is missing: list the names of the classes")
    names = [str(name).strip() for name in names]  # YAML reads some names as numbers
    twice = sorted({name for name in names if names.count(name) > 1 or not name})
    if twice:
        raise ConfigError(f"{path}: the names {twice} are empty or stand twice: correct them")
    return names
