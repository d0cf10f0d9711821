"""Checkpoint files of other frameworks, read without running code in them; ours, written."""

import os
import pickle
from collections.abc import Mapping

import torch
from torch import Tensor

from pcka.detection.config import ConfigError

# Where training programs keep the weights in their checkpoints.
_NESTED = ("state_dict", "model")


def read_checkpoint(path: str) -> tuple[dict[str, Tensor], dict]:
    """Read a ``.pth`` or ``.safetensors`` file.

    Returns:
        The state dict, without the ``module.`` of data-parallel training, and the file's ``meta``
        (mmdetection's version and config), empty in other files.

    Raises:
        ConfigError: no such file, no state dict in it, or a pickle of more than plain data.
    """
    if not os.path.isfile(path):
        raise ConfigError(f"no checkpoint {path!r}")
    content = _read_safetensors(path) if path.endswith(".safetensors") else _read_torch(path)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)} if _named(content) else {}
    if not state:
        raise ConfigError(
            f"{path} holds no state dict: neither tensors by name nor any under "
            f"{' or '.join(_NESTED)}"
        )
    return (
        {key.removeprefix("module."): value for key, value in state.items()},
        dict(meta) if isinstance(meta, Mapping) else {},
    )


def write_checkpoint(state: Mapping[str, Tensor], path: str, *, author: str) -> None:
    """Write a checkpoint that ``DetectionCheckpointer`` loads by exact names; whole or not at all.

    Raises:
        ConfigError: the file exists, or detectron2 would read that name as another format.
    """
    check_output(path)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    content = {"model": dict(state), "__author__": author, "matching_heuristics": False}
    torch.save(content, path + ".part")
    os.replace(path + ".part", path)


def check_output(path: str) -> None:
    """Raise ConfigError unless ``path`` is a new ``.pth`` file."""
    if os.path.exists(path):
        raise ConfigError(f"{path} exists and is not overwritten: name another file")
    if not path.endswith(".pth"):
        raise ConfigError(f"the output {path!r} has to end in .pth, as detectron2 reads it")


def _named(content) -> bool:
    return isinstance(content, Mapping) and all(isinstance(key, str) for key in content)


def _read_torch(path: str):
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} is no checkpoint of tensors and plain data alone. Other objects could run "
            "code and are not read; if it is a checkpoint you trust, save its weights again in the "
            "environment that made it: c = torch.load(FILE, weights_only=False); "
            'torch.save({"state_dict": c.get("state_dict", c.get("model"))}, "plain.pth"). '
            f"({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} is not a readable checkpoint: {error}") from error


def _read_safetensors(path: str) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ConfigError(
            f"reading {path} needs the package safetensors: pip install safetensors, or save the "
            "weights as .pth"
        ) from error
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, OSError
        raise ConfigError(f"{path} is not a readable checkpoint: {error}") from error
