"""Axes of a grid and tuned values: names of values, and the KEY VALUE pairs that they stand for."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from pcka.errors import ConfigError, check_keys

from .run_factory import FolderNames, word, words

Choices = Mapping[str, tuple[str, ...]]


def read_choices(entry: Any, where: str, taken: Mapping[str, str]) -> Choices:
    """Read the values of an axis, by name.

    ::

        {KEY: MODEL.PCKA.LOSS_WEIGHT, VALUES: [1, 3]}              # KEY may be a list of keys
        {VALUES: {mimic: [KEY, VALUE, KEY, VALUE], none: []}}      # where several keys go together

    Args:
        taken: keys that are set elsewhere, each with the name of the place.

    Raises:
        ConfigError: an entry that is not of this form, or a key that is taken.
    """
    check_keys(entry, ("KEY", "VALUES"), required=("VALUES",), where=where)
    values = entry["VALUES"]
    if isinstance(values, dict):
        if "KEY" in entry:
            raise ConfigError(f"{where}: VALUES with names hold their keys themselves: drop KEY")
        choices = {
            word(name, f"{where}: VALUES"): words(pairs, f"{where}: VALUES: {name}")
            for name, pairs in values.items()
        }
        for name, pairs in choices.items():
            if len(pairs) % 2:
                raise ConfigError(f"{where}: VALUES: {name} is a list [KEY, VALUE, ...] of pairs")
    elif isinstance(values, list):
        keys = entry.get("KEY")
        keys = keys if isinstance(keys, list) else [keys]
        if not keys or not all(key and isinstance(key, str) for key in keys):
            raise ConfigError(
                f"{where}: KEY is a key of the config or a list of them, got {entry.get('KEY')!r}"
            )
        folders = FolderNames()
        choices = {}
        for value in values:
            text = word(value, f"{where}: VALUES")
            folders.add(text, f"{where}: VALUES")
            choices[text] = tuple(part for key in keys for part in (key, text))
    else:
        raise ConfigError(
            f"{where}: VALUES is a list, or a mapping name -> [KEY, VALUE, ...], got {values!r}"
        )
    for pairs in choices.values():
        for key in pairs[::2]:
            if key in taken:
                raise ConfigError(f"{where} sets {key}, which {taken[key]} sets as well: drop one")
    return choices


def keys_of(choices: Choices) -> list[str]:
    """Return all keys that the choices set, each once."""
    return list(dict.fromkeys(key for pairs in choices.values() for key in pairs[::2]))


def grid(axes: Mapping[str, Choices]) -> Iterator[tuple[dict[str, str], tuple[str, ...]]]:
    """Yield every combination: names of values by axis, and KEY VALUE pairs. No axes give one."""
    for names in product(*axes.values()):
        point = dict(zip(axes, names, strict=True))
        yield point, tuple(part for axis, name in point.items() for part in axes[axis][name])
