"""Places that a command may write to: those where nothing is yet."""

from pathlib import Path

from pcka.errors import ConfigError
from pcka.files import check_writable


def check_new_folder(folder: Path) -> None:
    """Raise ConfigError unless a folder is empty, or does not exist and can be made."""
    if folder.is_dir():
        if next(folder.iterdir(), None) is not None:
            raise ConfigError(
                f"--output {folder} is not empty, and nothing is overwritten: name another folder"
            )
    elif folder.exists() or folder.is_symlink():
        raise ConfigError(f"--output {folder} is a file: name a folder")
    check_writable(folder, "--output")


def check_new_files(*files: Path) -> None:
    """Raise ConfigError if a file exists already, or its folder cannot be written."""
    for file in files:
        if file.exists() or file.is_symlink():
            raise ConfigError(
                f"--output: {file} exists, and nothing is overwritten: name another file"
            )
        check_writable(file.parent, "--output")


def unique_names(stems: list[str]) -> list[str]:
    """Number names that occur before: ``a, b, a`` becomes ``a, b, a_2``."""
    taken: set[str] = set()
    names = []
    for stem in stems:
        name, count = stem, 1
        while name.lower() in taken:
            count += 1
            name = f"{stem}_{count}"
        taken.add(name.lower())
        names.append(name)
    return names
