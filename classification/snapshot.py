"""``checkpoint.pth``: what the next step of a run depends on, as tensors and plain values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from pcka.errors import ConfigError

from .records import whole_file


class Stateful(Protocol):
    """A module, an optimizer, a scaler, ..."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


def save_snapshot(path: Path, parts: Mapping[str, Stateful], values: Mapping[str, Any]) -> None:
    """Write the states of ``parts`` and ``values`` side by side, or leave the file that was there.

    The part ``model`` lies where :func:`pcka.classification.checkpoints.load_weights` looks for it.
    """
    with whole_file(path) as part:
        torch.save({**{name: p.state_dict() for name, p in parts.items()}, **values}, part)


def load_snapshot(
    path: Path, parts: Mapping[str, Stateful], device: torch.device
) -> dict[str, Any]:
    """Fill ``parts``; returns the values beside them.

    Raises:
        ConfigError: a file that cannot be read or is of other parts; it names the remedy.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(content.pop(name))
    except Exception as error:  # torch's reader raises nearly everything on a damaged file
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(
            f"{path} is damaged or of another run, and cannot be resumed from: move it away to "
            f"start this run anew ({reason})"
        ) from error
    return content
