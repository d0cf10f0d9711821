"""What a user asked for and cannot have, in words: shared by detection and classification."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """What the user asked for cannot be done; the message names the input and the remedy."""


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known name that ``key`` seems to mean: its initials or theirs, else close in spelling."""
    key, known = str(key), list(known)
    for name in known:
        if name in _initials(key) or key in _initials(name):
            return name
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return close[0] if close else None


def unknown_key(key: str, known: Iterable[str]) -> str:
    """``unknown key 'GROPING', did you mean 'GROUPING'? Known: ...``"""
    known = list(known)
    close = nearest(key, known)
    hint = f", did you mean {close!r}?" if close else "."
    return f"unknown key {key!r}{hint} Known: {', '.join(known)}"


def _initials(name: str) -> tuple[str, ...]:
    """``learning_rate`` -> ``("lr",)``; nothing for a name of one word."""
    words = [word for word in name.split("_") if word]
    return ("".join(word[0] for word in words),) if len(words) > 1 else ()
