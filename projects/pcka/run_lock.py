"""One run in a folder at a time: a lock that ends with the process that holds it."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConfigError

LOCK = ".lock"
# The errors of file systems without locks; there a run continues without one.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Lock a run's folder, which is made if it is missing, while the context lasts.

    The lock is the system's (``fcntl``). It ends with its process, so it is never stale, and
    forked processes do not inherit it. The file names its holder.

    Raises:
        ConfigError: another process holds the folder; the message names its host and number.
    """
    path = Path(folder) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(handle)
                raise ConfigError(
                    f"another run is at work in {path.parent} ({_holder(path)}): wait for its end, "
                    "or name another folder"
                ) from error
        # The last holder may have removed the file between the two lines above.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            break
        os.close(handle)
    os.truncate(handle, 0)
    os.write(handle, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
    return handle


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "of an unknown process"
