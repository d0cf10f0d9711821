"""Warnings of libraries that a user of a command can do nothing about."""

import logging
import warnings

# detectron2 at import and at work, under newer torch and setuptools.
_MESSAGES = (".*torch.jit.*", ".*pkg_resources.*", ".*torch.meshgrid.*")
_LOGGERS = ("detectron2", "torch.fx")


def quiet_libraries() -> None:
    """Show warnings of this project, and of libraries only their errors."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in _MESSAGES:
        warnings.filterwarnings("ignore", message=message)
