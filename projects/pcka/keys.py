"""Dotted keys into nested mappings and lists: ``terms.kd.weight``."""

from typing import Any

from .errors import ConfigError, nearest


def set_key(tree: dict, key: str, value: Any, *, name: str) -> None:
    """Set ``key`` of ``tree`` in place; mappings on the way that are missing are made.

    Args:
        key: parts with dots between them; an entry of a list goes by its name or its number.
        name: the key under which an entry of a list has its name.

    Raises:
        ConfigError: the way leads through a plain value, or to an entry that a list does not have.
    """
    *parents, last = key.split(".")
    node: Any = tree
    for depth, part in enumerate(parents, start=1):
        if isinstance(node, list):
            node = node[_position(node, part, ".".join(parents[: depth - 1]), name)]
        else:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, dict | list):
            raise ConfigError(f"{key}: {'.'.join(parents[:depth])} is {node!r} and holds no keys")
    if isinstance(node, list):
        last = _position(node, last, ".".join(parents), name)
    node[last] = value


def _position(entries: list, part: str, where: str, name: str) -> int:
    names = [entry.get(name) if isinstance(entry, dict) else None for entry in entries]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(entries):
        return int(part)
    known = [str(index if name is None else name) for index, name in enumerate(names)]
    close = nearest(part, known)
    hint = f", did you mean {close!r}?" if close else "."
    raise ConfigError(
        f"{where} has no entry {part!r}{hint} "
        f"Known: {', '.join(known) or 'none: the list is empty'}"
    )
