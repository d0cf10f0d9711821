"""Checkpoints of a run: the weights of the plain student, and beside them what resuming needs."""

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pcka.detection.modeling.distilled_detector import DistilledDetector
from pcka.detection.modeling.weights import SafeCheckpointer
from pcka.files import save_tensors, write_text

_ADAPTERS = "distill"


class StudentCheckpointer(SafeCheckpointer):
    """Saves and loads the student of a distilled detector as the plain detector that it is.

    ``model`` in a checkpoint holds the student's state dict, as plain detectron2 would write it,
    and ``distill`` the adapters. A file is written whole or not at all, with its tensors on the
    CPU.

    Args:
        model: a :class:`DistilledDetector`, or any detector.
        save_dir: folder of the checkpoints.
        checkpointables: other objects with a state; see fvcore's ``Checkpointer``.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables: Any):
        if isinstance(model, DistributedDataParallel):
            model = model.module
        if isinstance(model, DistilledDetector):
            if model.distill is not None and model.distill.state_dict():
                checkpointables[_ADAPTERS] = model.distill
            model = model.student
        super().__init__(model, save_dir, **checkpointables)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` and make it the last checkpoint."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        file = f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {os.path.join(self.save_dir, file)}")
        save_tensors(os.path.join(self.save_dir, file), on_cpu({**data, **kwargs}))
        self.tag_last_checkpoint(file)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the file that names the last checkpoint."""
        write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def _load_file(self, filename: str) -> dict[str, Any]:
        loaded = super()._load_file(filename)
        # Versions before 0.2 kept the adapters among the weights, under ``distill.``.
        prefix = f"{_ADAPTERS}."
        if _ADAPTERS not in loaded and any(k.startswith(prefix) for k in loaded["model"]):
            state = loaded["model"]
            names = [key for key in state if key.startswith(prefix)]
            loaded[_ADAPTERS] = {key.removeprefix(prefix): state.pop(key) for key in names}
        return loaded


def on_cpu(value: Any) -> Any:
    """Copy nested containers with their tensors on the CPU; a state dict keeps its versions."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, Mapping):
        copy = OrderedDict((key, on_cpu(entry)) for key, entry in value.items())
        if hasattr(value, "_metadata"):
            copy._metadata = value._metadata  # type: ignore[attr-defined]
        return copy
    if type(value) in (list, tuple):
        return type(value)(on_cpu(entry) for entry in value)
    return value
