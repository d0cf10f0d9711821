"""Files that a run needs, local or fetched once, with an error that says where to get them."""

import os

from detectron2.utils.file_io import PathManager

from .config import ConfigError


def fetch(path: str, what: str) -> str:
    """Local path of ``path``, downloaded into detectron2's cache if it is a URL.

    Raises:
        ConfigError: not there, or not to be had without network.
    """
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
