"""A nested config as one level of dotted keys."""

from typing import Any


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Plain values by dotted key; entries of a list of mappings go by name, ``terms.kd.weight``.

    Args:
        node: mappings, lists and plain values.
        prefix: that all keys begin with.
    """
    if isinstance(node, list | tuple) and node and all(isinstance(e, dict) for e in node):
        names = [e.get("name") or e.get("NAME") or str(i) for i, e in enumerate(node)]
        rest = [{k: v for k, v in e.items() if k not in ("name", "NAME")} for e in node]
        node = dict(zip(names, rest, strict=True))
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    found = {}
    for key, value in node.items():
        found |= leaves(value, f"{prefix}.{key}" if prefix else key)
    return found
