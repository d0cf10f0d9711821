"""Errors that detectron2 raises for a config, in one line."""

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from pcka.errors import ConfigError, RunError

_EXPECTED = (ConfigError, RunError, FloatingPointError, OSError)
_LIBRARIES = ("detectron2", "fvcore", "torch", "torchvision", "timm", "yacs", "iopath")


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn an error that a library raises while it reads the config into a ConfigError.

    Errors that other code takes part in, such as a backbone of the user's own, keep their
    traceback, and so do ours.

    Args:
        what: begins the message, such as "the student cannot be built".
    """
    try:
        yield
    except _EXPECTED:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not (_is_library(frames[-1]) and all(_is_library(f) or _is_pcka(f) for f in frames)):
            raise
        where = next((f for f in reversed(frames) if "detectron2" in f.filename), frames[-1])
        path = where.filename.rsplit("site-packages" + os.sep, 1)[-1]
        reason = str(error).splitlines()[0] if str(error) else "no further words"
        raise ConfigError(
            f"{what}: {type(error).__name__}: {reason} (in {where.name}, {path}:{where.lineno})"
        ) from error


class _NoTraceback(logging.Filter):
    """Drops detectron2's report of an error that the command prints in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], _EXPECTED))


_FILTER = _NoTraceback()


def report_once() -> None:
    """Keep the tracebacks of expected errors in training out of the log."""
    logging.getLogger("detectron2.engine.train_loop").addFilter(_FILTER)


def _folder(package: str) -> str:
    spec = find_spec(package)
    return os.path.dirname(spec.origin) + os.sep if spec and spec.origin else os.sep + package


_FOLDERS = tuple(_folder(package) for package in _LIBRARIES)
_PCKA = _folder("pcka")


def _is_library(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_FOLDERS)


def _is_pcka(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_PCKA)
