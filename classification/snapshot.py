"""Writing and reading ``checkpoint.pth``, which holds all that a run's next step depends on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pcka.checkpoint_files import read_checkpoint
from pcka.errors import ConfigError
from pcka.files import is_whole, save_tensors


class Stateful(Protocol):
    """A module, an optimizer, a scaler, ..."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


def save_snapshot(path: Path, parts: Mapping[str, Stateful], values: Mapping[str, Any]) -> None:
    """Write the states of ``parts`` and ``values`` side by side, or leave the file that was there.

    The part ``model`` lies where :func:`pcka.classification.checkpoints.load_weights` looks for it.
    """
    save_tensors(path, {**{name: p.state_dict() for name, p in parts.items()}, **values})


def load_snapshot(path: Path, parts: Mapping[str, Stateful], *, steps: int) -> dict[str, Any]:
    """Fill ``parts`` and return the values beside them.

    Args:
        path: the path of the file.
        parts: the objects that have a state, by name.
        steps: the number of steps of the whole run.

    Raises:
        ConfigError: a file that cannot be read or is of other parts; it names the remedy.
    """
    try:
        content = read_checkpoint(path)
        if not is_whole(path):  # torch reads tensors without looking at their checksums
            raise ValueError("its checksums do not fit")
        step, history = content["step"], content["history"]
        if type(step) is not int or not 0 <= step <= steps or not isinstance(history, list):
            raise ValueError(f"step {step!r} of {steps}")
        if step == steps and not history:
            raise ValueError("no evaluation")
        for name, part in parts.items():
            part.load_state_dict(content.pop(name))
    except Exception as error:  # torch's reader raises nearly everything on a damaged file
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(
            f"{path} is damaged or of another run, and cannot be resumed from: move it away to "
            f"start this run anew ({reason})"
        ) from error
    return content
