"""Atomic writes: files are written under a temporary name, then renamed."""

import errno
import json
import os
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ConfigError

PART = ".part"  # ends the name of a file that is being written


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there becomes ``path``.

    The temporary name contains host and process, so that two processes never share one. The data
    reach the disk before the rename: after a crash ``path`` holds the old or the new content,
    whole. If the body raises, ``path`` stays as it was and the temporary file is removed.
    """
    path = Path(path)
    part = path.with_name(f".{path.name[:150]}.{socket.gethostname()}.{os.getpid()}{PART}")
    try:
        yield part
        _flush(part)
        os.replace(part, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        # The error names no file, or the temporary part, which the user does not know.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    _flush(path.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def save_tensors(path: str | os.PathLike, content: Any) -> None:
    """Write ``content`` by ``torch.save``, whole or not at all."""
    import torch

    with replacing(path) as part:
        try:
            torch.save(content, part)
        except RuntimeError as error:
            # torch's own writer reports a full disk by the offset that it could not reach.
            number = errno.ENOSPC if part.parent.is_dir() else errno.ENOENT
            raise OSError(number, os.strerror(number), str(path)) from error


def read_json(path: str | os.PathLike) -> Any:
    """Return the content of a JSON file, None if there is no file.

    Raises:
        ConfigError: a file that holds something else.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged ({' '.join(str(error).split())}): put it back, or remove it"
        ) from error


def is_whole(path: str | os.PathLike) -> bool:
    """Return whether a file of ``torch.save`` is complete, by the checksums inside."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError):
        return False


def check_writable(folder: str | os.PathLike, key: str) -> None:
    """Raise ConfigError unless ``folder`` exists or can be made, and can be written to.

    Args:
        key: the key of the config that names the folder.
    """
    if "\0" in os.fspath(folder):
        raise ConfigError(f"{key} {folder!r} holds the character \\0, which no folder can have")
    parent = os.path.abspath(folder)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
        raise ConfigError(
            f"{key} {folder} cannot be written ({parent} is no folder that you may write to): "
            f"set another {key}"
        )


def _flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        # Some file systems cannot flush a folder; the rename is atomic all the same.
        if not path.is_dir():
            raise
    finally:
        os.close(handle)
