"""Dotted keys into nested mappings and lists: ``terms.kd.weight``."""

from typing import Any

from .errors import ConfigError, nearest


def set_key(tree: dict, key: str, value: Any, *, name: str) -> None:
    """Set ``key`` of ``tree`` in place; missing mappings on the path are made.

    Args:
        key: parts with dots between them; an entry of a list is addressed by its name or number.
        name: the key under which an entry of a list has its name.

    Raises:
        ConfigError: the path leads through a plain value, or to an entry that a list does not have.
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
        node[_position(node, last, ".".join(parents), name)] = value
    else:
        node[last] = value


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return plain values by dotted key; an entry of a list has its name: ``terms.kd.weight``.

    Args:
        node: mappings, lists and plain values.
        prefix: the beginning of all keys.
    """
    if isinstance(node, list | tuple) and node and all(isinstance(e, dict) for e in node):
        names = [e.get("name") or e.get("NAME") or str(i) for i, e in enumerate(node)]
        rest = [{k: v for k, v in e.items() if k not in ("name", "NAME")} for e in node]
        node = dict(zip(names, rest, strict=True))
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= leaves(value, f"{prefix}.{key}" if prefix else key)
    return found


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
