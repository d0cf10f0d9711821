"""Entries of DATASETS.COCO_JSON and DATASETS.FOLDERS: the values that both have."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pcka.errors import ConfigError


def check_texts(entry: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    """Check that values are texts, and NAME one that may be a folder's.

    Args:
        entry: it has all of the keys, and NAME.
        keys: the keys of the texts.
        where: the config key, which begins a message.

    Raises:
        ConfigError: another value.
    """
    for key in keys:
        if not isinstance(entry[key], str):
            raise ConfigError(f"{where}: {key} is a text, got {entry[key]!r}")
    if not re.fullmatch(r"\w[\w.-]*", entry["NAME"], re.ASCII):
        raise ConfigError(
            f"{where}: NAME {entry['NAME']!r} is the name of a folder as well: use letters, "
            "digits, _, - and . alone"
        )
