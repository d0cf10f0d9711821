"""Names of the files in a directory of images or a .zip file."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pcka.errors import ConfigError

_ENCRYPTED = 0x1  # flag of a member of a .zip
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def directory_names(root: Path, folders: Sequence[str]) -> list[str]:
    """Return the files and folders below some folders of ``root``; a folder ends in ``/``.

    Links are followed.

    Raises:
        ConfigError: a link that leads back to a folder that it lies in, a pipe or a device.
    """
    names: list[str] = []
    for folder in folders:
        if (root / folder).is_dir():
            _walk(root, folder, (), names)
    return names


def _walk(root: Path, folder: str, parents: tuple[tuple[int, int], ...], names: list[str]) -> None:
    found = os.stat(root / folder)
    here = (found.st_dev, found.st_ino)
    if here in parents:
        raise ConfigError(
            f"{root / folder} is a link that leads back to a folder above it: remove the link"
        )
    names.append(f"{folder}/")
    with os.scandir(root / folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_dir():
                _walk(root, f"{folder}/{entry.name}", (*parents, here), names)
            elif os.path.exists(entry.path) and not entry.is_file():
                raise ConfigError(
                    f"{entry.path} is no file, but a pipe, a socket or a device, which would be "
                    "waited for: remove it"
                )
            else:
                names.append(f"{folder}/{entry.name}")


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a .zip file whose members can all be read.

    Raises:
        ConfigError: not a complete .zip file, or one that is encrypted, compressed by another
            method, or written with backslashes in its names.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"{path} is not a complete .zip file ({error}): download it again, or set "
            "data.root to a directory"
        ) from error
    remedy = "extract it and set data.root to the folder"
    for member in archive.infolist():
        if member.flag_bits & _ENCRYPTED:
            raise ConfigError(f"{path} is encrypted ({member.filename}): {remedy}")
        if member.compress_type not in _READABLE:
            raise ConfigError(
                f"{path} is compressed by method {member.compress_type} (Deflate64 is 9), which "
                f"Python does not read ({member.filename}): {remedy}"
            )
        if "\\" in member.filename:
            raise ConfigError(
                f"{path} has backslashes in its names ({member.filename}), as some programs on "
                f"Windows write them: {remedy}"
            )
    return archive
