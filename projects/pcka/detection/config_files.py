"""Reading detectron2 configs: safely, with keys into lists, and with errors that help.

No key of this project is known here.
"""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from pcka.errors import ConfigError, unknown_key
from pcka.keys import set_key
from pcka.yaml_files import check_is_file, parse_yaml, read_with_bases


class SafeCfgNode(CfgNode):
    """A config node that reads YAML, and the files along ``_BASE_``, without running code."""

    @classmethod
    def load_yaml_with_base(cls, filename, allow_unsafe=False):
        return read_with_bases([filename], is_trusted=_ships_with_detectron2)

    def merge_from_file(self, cfg_filename, allow_unsafe=False):
        path = Path(cfg_filename).expanduser()
        check_is_file(path)
        fit_types(self, self.load_yaml_with_base(path))  # first: yacs' own words name no key
        super().merge_from_file(str(path), allow_unsafe)

    def merge_from_other_cfg(self, cfg_other):
        fit_types(self, cfg_other)
        return super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list):
        for key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=False):
            if _leads_into_list(self, key):
                set_key(self, key, _plain(value), name="NAME")
                continue
            where, _, last = key.rpartition(".")
            entry = {last: value}
            node = lookup(self, where) if where else self
            if isinstance(node, CfgNode):
                fit_types(node, entry, where)
            super().merge_from_list([key, entry[last]])
        return super().merge_from_list(list(cfg_list[-1:]) if len(cfg_list) % 2 else [])


def _plain(value: Any) -> Any:
    """Return a value of the command line: as yacs reads it, or a mapping or list as in YAML."""
    found = value if isinstance(value, dict) else CfgNode._decode_cfg_value(value)
    if not isinstance(found, str) or found.lstrip()[:1] not in ("{", "["):
        return found
    try:
        return parse_yaml(found)
    except yaml.YAMLError:
        return found  # text, which the check of the key refuses


def _ships_with_detectron2(path: Path) -> bool:
    """Return whether a file lies inside the package detectron2, and so is code already."""
    return path.is_relative_to(Path(str(resources.files("detectron2"))).resolve())


# What the values of a key are called, by the type of its default.
_KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
}


def fit_types(node: CfgNode, other: dict, where: str = "") -> None:
    """Bring values to the types of ``node``: a whole number to a float, where that is wanted.

    Args:
        node: the config, with a value for every key.
        other: the values that will be merged into it, changed in place; unknown keys stay as they
            are.
        where: full name of ``node`` for messages.

    Raises:
        ConfigError: a value of another type, or none where there has to be one, with its full key.
    """
    for key, value in other.items():
        if key not in node:
            continue
        old, name = node[key], f"{where}.{key}" if where else key
        if isinstance(old, CfgNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{name} is a mapping of keys, got {value!r:.80}")
            fit_types(old, value, name)
            continue
        new = CfgNode._decode_cfg_value(value)
        kind = _KINDS.get(type(old))
        if type(new) is int and type(old) is float:
            other[key] = float(new)
        elif kind and kind != _KINDS.get(type(new)):
            hint = ": quote it" if kind == "text" and new is not None else ""
            raise ConfigError(f"{name} is {kind}, got {value!r:.80}{hint}")


def lookup(node: CfgNode, path: str):
    """Return the value under a full name such as ``MODEL.DEVICE``; None if there is none."""
    for part in path.split("."):
        node = node.get(part) if isinstance(node, CfgNode) else None
    return node


def _leads_into_list(cfg: CfgNode, key: str) -> bool:
    parts = key.split(".")
    return any(isinstance(lookup(cfg, ".".join(parts[:n])), list) for n in range(1, len(parts)))


def explain(error: Exception, cfg: CfgNode) -> str:
    """Return yacs' message, with the known keys of the node where a key is unknown."""
    message = str(error.args[0] if error.args else error)
    marker = "Non-existent key: "
    if marker not in message and "Non-existent config key: " not in message:
        return message
    path = message.rsplit(": ", 1)[-1].strip()
    node = cfg
    for part in path.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            break
        node = node[part]
    if not isinstance(node, CfgNode):
        return f"{path}: {node!r:.80} holds no keys"
    return f"in {path}: {unknown_key(part, list(node))}"
