"""Reading checkpoints of other frameworks as data alone, and writing ours."""

import os
from collections.abc import Mapping

from torch import Tensor

from pcka.checkpoint_files import read_checkpoint
from pcka.checkpoints import find_state
from pcka.detection.config import ConfigError
from pcka.files import save_tensors


def read_weights(path: str) -> tuple[dict[str, Tensor], dict]:
    """Read the weights in a file of another framework.

    Returns:
        The state dict, without the ``module.`` of data-parallel training, and the file's ``meta``
        (mmdetection's version and config), empty in other files.

    Raises:
        CheckpointError: no such file, no state dict in it, or a pickle of more than plain data.
    """
    content = read_checkpoint(path)
    state, _ = find_state(content, path)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    return (
        {key.removeprefix("module."): value for key, value in state.items()},
        dict(meta) if isinstance(meta, Mapping) else {},
    )


def write_checkpoint(state: Mapping[str, Tensor], path: str, *, author: str) -> None:
    """Write a checkpoint that ``DetectionCheckpointer`` loads by exact names.

    Raises:
        ConfigError: a file that exists, or a name that detectron2 would read as another format.
    """
    check_output(path)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    content = {"model": dict(state), "__author__": author, "matching_heuristics": False}
    save_tensors(path, content)


def check_output(path: str) -> None:
    """Raise ConfigError unless ``path`` is a new ``.pth`` file."""
    if os.path.exists(path):
        raise ConfigError(f"{path} exists and is not overwritten: name another file")
    if not path.endswith(".pth"):
        raise ConfigError(f"the output {path!r} has to end in .pth, as detectron2 reads it")
