"""KEY VALUE pairs merged into a tree of plain values, and the tree as frozen dataclasses.

No key is known here: the fields and annotations of the dataclasses are the schema.
"""

import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
import yaml

from pcka.errors import ConfigError, nearest
from pcka.keys import set_key
from pcka.yaml_files import parse_yaml

# What a tensor of float32 can be multiplied by.
_LARGEST = torch.finfo(torch.float32).max
_ASSIGNMENT = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.DOTALL)


def merge_pairs(tree: dict, opts: Sequence[str]) -> None:
    """Set dotted keys of ``tree``: ``["train.lr", "0.1", "data.root=/x"]``, values in YAML.

    An entry of a list is addressed by its ``name`` or its number: ``terms.kd.weight 2``.
    """
    rest = iter([str(token) for token in opts])
    for token in rest:
        assignment = _ASSIGNMENT.fullmatch(token)
        key, value = assignment.groups() if assignment else (token, next(rest, None))
        if value is None:
            raise ConfigError(f"{key} comes without a value: give KEY VALUE pairs, or KEY=VALUE")
        try:
            content = parse_yaml(value)
        except (yaml.YAMLError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise ConfigError(f"{key}: {value[:80]!r} is not valid YAML: quote it") from error
        set_key(tree, key, content, name="name")


def build(cls: type, tree: Any, where: str = "", root: type | None = None) -> Any:
    """A dataclass from a mapping of its fields' names.

    Args:
        cls: the dataclass; its annotations say what each key takes.
        tree: plain values.
        where: dotted key of ``tree`` for messages.
        root: the outermost dataclass, whose keys an unknown key may have meant.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or whatever ``cls`` itself refuses.
    """
    root = root or cls
    types_of = get_type_hints(cls)
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where} is a mapping with {', '.join(types_of)}, got {tree!r}")
    for key in tree:
        if key not in types_of:
            raise ConfigError(_unknown(str(key), list(types_of), where, root))
    for field in fields(cls):
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in tree:
            raise ConfigError(f"{_join(where, field.name)} is missing")
    values = {
        key: _convert(value, types_of[key], _join(where, key), root) for key, value in tree.items()
    }
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert(value: Any, kind: Any, where: str, root: type) -> Any:
    """``value`` as the annotation ``kind`` wants it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for kind_if_set in (a for a in arguments if a is not type(None)):
            try:
                return _convert(value, kind_if_set, where, root)
            except _WrongTypeError:
                continue
        raise _WrongTypeError(where, kind, value)
    if isinstance(kind, type) and is_dataclass(kind):
        return build(kind, value, where, root)
    if origin in (tuple, Sequence) and isinstance(value, list | tuple):
        if origin is tuple and arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise _WrongTypeError(where, kind, value)
        return tuple(_convert(v, arguments[0], f"{where}[{i}]", root) for i, v in enumerate(value))
    if origin is Mapping and isinstance(value, Mapping):
        return dict(value)
    if origin is Literal and any(value is v or (value == v and type(v) is str) for v in arguments):
        return value
    if kind is float and type(value) in (int, float) and abs(value) < math.inf:
        if abs(value) > _LARGEST:
            raise ConfigError(f"{where} is beyond the range of float32, got {value!r:.40}")
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    raise _WrongTypeError(where, kind, value)


class _WrongTypeError(ConfigError):
    def __init__(self, where: str, kind: Any, value: Any):
        hint = ": quote it" if kind is str and value is not None else ""
        super().__init__(f"{where} is {_describe(kind)}, got {value!r}{hint}")


def _describe(kind: Any) -> str:
    names = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in names:
        return names[kind]
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(a) for a in arguments)
    if origin is Literal:
        return f"one of {', '.join(str(a) for a in arguments)}"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}, each {_describe(arguments[0])}"
    if origin in (tuple, Sequence):
        return f"a list, each {_describe(arguments[0])}"
    return "a mapping"


def _unknown(key: str, siblings: list[str], where: str, root: type) -> str:
    """The message for an unknown key: a sibling may be meant, or its namesake elsewhere."""
    elsewhere = [path for path in _key_paths(root) if path.rsplit(".", 1)[-1] == key]
    sibling = nearest(key, siblings)
    meant: str | None
    if elsewhere:
        meant = elsewhere[0]
    elif sibling:
        meant = _join(where, sibling)
    else:
        leaves = {path.rsplit(".", 1)[-1]: path for path in _key_paths(root)}
        meant = leaves.get(nearest(key, leaves) or "")
    hint = f", did you mean {meant}?" if meant else "."
    return f"{_join(where, key)}: unknown key{hint} Known here: {', '.join(siblings)}"


def _key_paths(cls: type, prefix: str = "") -> list[str]:
    paths = []
    for key, kind in get_type_hints(cls).items():
        paths.append(prefix + key)
        for candidate in (kind, *get_args(kind)):
            if not isinstance(candidate, type) or get_origin(kind) is tuple:
                continue
            if is_dataclass(candidate):
                paths += _key_paths(candidate, f"{prefix}{key}.")
    return paths


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
