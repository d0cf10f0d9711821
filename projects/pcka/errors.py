"""Errors for users, and checks of keys: shared by detection and classification."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class ConfigError(ValueError):
    """A request that cannot be met; the message names the input and the remedy."""


class RunError(RuntimeError):
    """A run that was started and failed."""


def nearest(key: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``key`` seems to mean: by initials, else by spelling."""
    key, known = str(key), list(known)
    for name in known:
        if name in _initials(key) or key in _initials(name):
            return name
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return close[0] if close else None


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return ``unknown key 'GROPING', did you mean 'GROUPING'? Known: ...``"""
    known = list(known)
    close = nearest(key, known)
    hint = f", did you mean {close!r}?" if close else "."
    return f"unknown key {key!r}{hint} Known: {', '.join(known)}"


def check_keys(entry: Any, known: Sequence[str], *, required: Sequence[str], where: str) -> None:
    """Raise ConfigError unless ``entry`` is a mapping of known keys, the required ones filled."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is a mapping with {', '.join(known)}, got {entry!r}")
    for key in entry:
        if key not in known:
            raise ConfigError(f"{where}: {unknown_key(key, known)}")
    for key in required:
        if not entry.get(key):
            raise ConfigError(f"{where}: {key} is missing or empty")


def _initials(name: str) -> tuple[str, ...]:
    """Return ``("lr",)`` for ``learning_rate``, and nothing for a name of one word."""
    words = [word for word in name.split("_") if word]
    return ("".join(word[0] for word in words),) if len(words) > 1 else ()
