"""Files of a detector's weights: fetched, and read as data alone."""

import os
from collections.abc import Mapping
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import Tensor

from pcka.checkpoint_files import read_checkpoint
from pcka.checkpoints import check_numbers, find_state, without_prefix
from pcka.detection.config import ConfigError

from .timm_weights import names_in_detector


def fetch(path: str, what: str) -> str:
    """Return the local path of ``path``, downloaded into detectron2's cache if it is a URL.

    Args:
        path: a file or a URL; ``~`` is the home folder.
        what: its name in messages.

    Raises:
        ConfigError: the file does not exist, or cannot be fetched.
    """
    path = os.path.expanduser(path)
    try:
        local = PathManager.get_local_path(path)
    except Exception as error:  # each handler of iopath raises its own kinds
        raise ConfigError(
            f"{what}: cannot fetch {path} ({type(error).__name__}: {error}). Without network, "
            "download it elsewhere and give the file's path"
        ) from error
    if not os.path.isfile(local):
        raise ConfigError(f"{what}: no file {path!r} (looked for {os.path.abspath(local)})")
    return local


class SafeCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer that reads files as data alone, in all usual layouts.

    Attributes:
        incompatible: keys of the last load that did not match, which the base class only logs.
    """

    incompatible: Any = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_checkpoint(filename)
        zoo = self._zoo_content(content, filename) if filename.endswith(".pkl") else None
        if zoo:
            check_numbers(find_state(zoo, filename)[0], filename, {})
            return zoo
        if filename.endswith(".pyth"):  # pycls
            state, _ = find_state(content, filename)
            state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
            return {"model": state, "__author__": "pycls", "matching_heuristics": True}
        state, layout = find_state(content, filename)
        loaded = dict(content) if layout == "model" else {}
        if "matching_heuristics=True" in self._parsed_url_during_load.query:
            loaded["matching_heuristics"] = True
        weights: Mapping[str, Tensor] = state
        if named := names_in_detector(state, self.model, filename):
            weights, loaded = named, {}
        elif not loaded.get("matching_heuristics"):
            weights, prefix = without_prefix(state, self.model.state_dict())
            if prefix:
                self.logger.info(f"{filename}: names fit without their prefix {prefix!r}")
        check_numbers(weights, filename, self.model.state_dict())
        return {**loaded, "model": weights}

    def _zoo_content(self, content: Any, filename: str) -> dict[str, Any] | None:
        """Return a pickle of detectron2's or Caffe2's model zoo in the form of a checkpoint.

        None: a file whose names are those of the model, however its own name ends.
        """
        if isinstance(content, Mapping) and "model" in content and "__author__" in content:
            return dict(content)
        if isinstance(content, Mapping) and isinstance(content.get("blobs"), Mapping):
            content = {k: v for k, v in content["blobs"].items() if not isinstance(v, str | bytes)}
        state, _ = find_state(content, filename)
        names = self.model.state_dict().keys()
        if names & without_prefix(state, names)[0].keys():
            return None
        state = {k: v for k, v in state.items() if not k.endswith("_momentum")}
        return {"model": state, "__author__": "Caffe2", "matching_heuristics": True}

    def _load_model(self, checkpoint: Any) -> Any:
        self.incompatible = super()._load_model(checkpoint)
        return self.incompatible
