"""The weights in a checkpoint: found among its parts, named plainly and checked.

:mod:`pcka.checkpoint_files` reads the files.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcka.checkpoint_files import CheckpointError

# Where training programs keep the weights in their checkpoints, the most usual first. Moving
# averages come last: where a file has both, the weights themselves are meant.
STATE_KEYS = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "params",
    "params_ema",
    "weights",
    "student",
    "teacher",
    "ema",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "state",
    "checkpoint",
)
# How deep in a checkpoint weights are looked for.
_DEEPEST = 4
# The largest number that batch norms usually add to their variances.
_SMALL = 1e-3
# Entries of a state dict that are no weights: counters of profilers and of averaged models.
_COUNTERS = ("total_ops", "total_params", "n_averaged")


def find_state(content: Any, path: str | os.PathLike) -> tuple[dict[str, Tensor], str]:
    """Return the state dict in a checkpoint's content, and the key that it stood under.

    Args:
        content: the result of :func:`read_checkpoint`.
        path: the file, for messages.

    Returns:
        Tensors by name, and one of ``STATE_KEYS`` or ``bare``.

    Raises:
        CheckpointError: nothing there that is tensors by name.
    """
    layout, state = _find(content)
    if not is_state(state):
        found = f"a {type(state).__name__}"
        if isinstance(state, Mapping):
            found = f"a dictionary of {', '.join(map(str, state))[:200] or 'nothing'}"
            other = [k for k, v in state.items() if not (isinstance(k, str) and _is_numbers(v))]
            if other and len(other) < len(state):
                found = "tensors beside other entries"
            if other:
                found += f" (one is {other[0]!r:.80}: {_kind(state[other[0]])})"
        raise CheckpointError(
            f"{path} holds no weights, bare or under {', '.join(STATE_KEYS[:4])} and the like, "
            f"but {found}: give a file of them, torch.save(model.state_dict(), FILE)"
        )
    tensors = OrderedDict(
        (name, torch.as_tensor(value))
        for name, value in state.items()
        if isinstance(value, Tensor | np.ndarray) and name.rsplit(".", 1)[-1] not in _COUNTERS
    )
    _copy_versions(state, tensors)
    return tensors, layout


def _find(content: Any) -> tuple[str, Any]:
    """Return the key of the state, dotted where it lies deeper, and the state or what is closest.

    Where no usual key holds a state, another one may, if it is the only one that does.
    """
    layout, state = "bare", content
    for _ in range(_DEEPEST):
        if not isinstance(state, Mapping) or is_state(state):
            break
        states = [key for key, part in state.items() if is_state(part)]
        parts = [key for key in STATE_KEYS if isinstance(state.get(key), Mapping)]
        usual = [key for key in parts if key in states] or parts
        if not usual and len(states) != 1:
            break
        [key, *_] = usual or states
        layout, state = str(key) if layout == "bare" else f"{layout}.{key}", state[key]
    return layout, state


def without_prefix(
    state: Mapping[str, Tensor], wanted: Iterable[str]
) -> tuple[Mapping[str, Tensor], str]:
    """Take off what wrappers put before all names, where that makes them fit.

    Names under ``student.`` beside other parts (mdistiller's checkpoints hold the teacher as
    well) are the student's.

    Args:
        state: tensors by name.
        wanted: names of the model.

    Returns:
        The state by plain name, and the prefix that was taken off, "" for none.
    """
    names = set(wanted)
    taken, current = "", state
    best, best_prefix, matches = current, "", len(names & current.keys())
    while True:
        first, dot, _ = next(iter(current), "").partition(".")
        found = first + dot if dot else ""
        if not all(key.startswith(found) for key in current):
            found = "student." if any(key.startswith("student.") for key in current) else ""
        if not found:
            return best, best_prefix
        taken += found
        longer = current
        current = OrderedDict(
            (key.removeprefix(found), value)
            for key, value in longer.items()
            if key.startswith(found)
        )
        _copy_versions(longer, current, found)
        # Longer prefixes win ties: wrappers say nothing about the model.
        if (count := len(names & current.keys())) > matches or not matches:
            best, best_prefix, matches = current, taken, count


def _copy_versions(source: Mapping, target: OrderedDict, prefix: str = "") -> None:
    """Carry over the version marks that torch keeps on a state dict, for modules that upgrade."""
    versions = getattr(source, "_metadata", None)
    if versions is not None:
        marks = {k.removeprefix(prefix): v for k, v in versions.items() if k.startswith(prefix)}
        target._metadata = OrderedDict(marks)  # type: ignore[attr-defined]


def check_numbers(
    state: Mapping[str, Tensor], path: str | os.PathLike, wanted: Mapping[str, Tensor]
) -> None:
    """Check that weights are finite numbers of the kind that the model computes with.

    Args:
        state: tensors by name.
        path: the file, for the message, which also names the entry.
        wanted: the model's own entries.

    Raises:
        CheckpointError: NaN or infinity, quantized or sparse entries, whole or complex numbers
            where the model has real ones.
    """
    for key, value in state.items():
        real = key not in wanted or not wanted[key].is_floating_point() or value.is_floating_point()
        real = real and not (value.is_floating_point() and value.itemsize == 1)  # needs its scale
        if value.is_complex() or value.is_quantized or value.layout != torch.strided or not real:
            raise CheckpointError(
                f"{path} holds {key} as {value.dtype} ({str(value.layout).removeprefix('torch.')}),"
                " and only plain real numbers are loaded: save the weights of the model as it was "
                "trained, in float32"
            )
        if value.is_meta:
            raise CheckpointError(f"{path} holds {key} without its numbers (device meta)")
    # In float32, which the model computes in, a double may be infinite.
    floats = {k: v.float() for k, v in state.items() if v.is_floating_point()}
    broken = [k for k, v in floats.items() if not v.isfinite().all()]
    negative = [k for k, v in floats.items() if k.endswith("running_var") and (v < -_SMALL).any()]
    if negative:
        raise CheckpointError(
            f"{path} holds a negative variance in {negative[0]}, whose root is NaN: the file is "
            "damaged or its training diverged, give another checkpoint"
        )
    if broken:
        more = f" and {len(broken) - 1} other entries" if broken[1:] else ""
        raise CheckpointError(
            f"{path} holds NaN or infinity in {broken[0]}{more}: its training diverged, give "
            "another checkpoint"
        )


def is_state(value: Any) -> bool:
    """Return whether a value maps names to tensors or arrays (an entry may be None)."""
    return (
        isinstance(value, Mapping)
        and any(_is_numbers(v) for v in value.values())
        and all(isinstance(k, str) for k in value)
        and all(v is None or _is_numbers(v) for v in value.values())
    )


def _is_numbers(value: Any) -> bool:
    return isinstance(value, Tensor) or (
        # torch has no type for the long doubles of numpy.
        isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.itemsize <= 8
    )


def _kind(value: Any) -> str:
    """Return the type of a value, and for arrays that of their entries."""
    kind = type(value).__name__
    return f"{kind} of {value.dtype}" if isinstance(value, np.ndarray) else kind
