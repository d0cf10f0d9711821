"""Reading detectron2 configs: safely, with keys into lists, and with errors that help.

No key of this project is known here.
"""

from importlib import resources
from pathlib import Path

from detectron2.config import CfgNode

from pcka.errors import unknown_key
from pcka.keys import set_key
from pcka.yaml_files import read_with_bases


class SafeCfgNode(CfgNode):
    """A config node that reads YAML, and the files along ``_BASE_``, without running code."""

    @classmethod
    def load_yaml_with_base(cls, filename, allow_unsafe=False):
        return read_with_bases([filename], is_trusted=_ships_with_detectron2)

    def merge_from_other_cfg(self, cfg_other):
        widen(self, cfg_other)
        return super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list):
        for key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=False):
            if _leads_into_list(self, key):
                plain = value if isinstance(value, dict) else self._decode_cfg_value(value)
                set_key(self, key, plain, name="NAME")
                continue
            value = self._decode_cfg_value(value)
            if type(value) is int and type(lookup(self, key)) is float:
                value = float(value)
            super().merge_from_list([key, value])
        return super().merge_from_list(list(cfg_list[-1:]) if len(cfg_list) % 2 else [])


def _ships_with_detectron2(path: Path) -> bool:
    """Return whether a file lies inside the package detectron2, and so is code already."""
    return path.is_relative_to(Path(str(resources.files("detectron2"))).resolve())


def widen(node: CfgNode, other: CfgNode) -> None:
    """Turn whole numbers where ``node`` holds a float into floats, as yacs would refuse them."""
    for key, value in other.items():
        if isinstance(value, CfgNode) and isinstance(node.get(key), CfgNode):
            widen(node[key], value)
        elif type(value) is int and type(node.get(key)) is float:
            other[key] = float(value)


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
    known = [k for k in node] if isinstance(node, CfgNode) else []
    return f"in {path}: {unknown_key(part, known)}"
