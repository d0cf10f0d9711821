"""One reader of weight files for detectors and classifiers: safe, and clear about what is wrong.

A checkpoint is read as data alone, so that a file from the internet cannot run code. Files of
``torch.save``, safetensors and pickles of numpy arrays (detectron2's model zoo) are read.
"""

import argparse
import datetime
import os
import pathlib
import pickle
import re
import tarfile
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from pcka.errors import ConfigError

# Training scripts store their options as a Namespace and accuracies as numpy scalars; the latter
# are pickled under two module names, before and since numpy 2.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_ARRAY = np.zeros(0).__reduce__()[0]
_SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    datetime.datetime,
    datetime.timedelta,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    defaultdict,
    list,
    dict,
    int,
    float,
    np.dtype,
    np.ndarray,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i8", "i4", "u1", "b1")),
    *(
        (function, f"{module}.multiarray.{name}")
        for function, name in ((_NUMPY_SCALAR, "scalar"), (_NUMPY_ARRAY, "_reconstruct"))
        for module in ("numpy.core", "numpy._core")
    ),
]
# The keys under which training programs keep the weights, most usual first. Moving averages come
# last: if a file has both, the weights themselves are taken.
STATE_KEYS = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "params",
    "weights",
    "student",
    "teacher",
    "ema",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
)
# The prefixes of wrappers: DistributedDataParallel, torch.compile, Lightning, OpenMMLab.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "student.", "backbone.")
# Entries of a state dict that are no weights: counters of profilers and of averaged models.
_COUNTERS = ("total_ops", "total_params", "n_averaged")


class CheckpointError(ConfigError):
    """A file that is no usable checkpoint; the message names the file and the remedy."""


def read_checkpoint(path: str | os.PathLike) -> Any:
    """Return the content of a checkpoint file, its tensors on the CPU.

    Args:
        path: the path of a file written by ``torch.save``, a ``.safetensors`` file, or a pickle of
            numpy arrays (``.pkl``), whose arrays are not converted.

    Raises:
        CheckpointError: no such file, an archive, a web page, TorchScript, a file that is empty
            or cut short, or one that holds objects which could run code.
    """
    path = os.path.expanduser(os.fspath(path))
    if os.path.isdir(path):
        files = ", ".join(sorted(os.listdir(path))[:5]) or "nothing"
        raise CheckpointError(f"{path} is a folder: name one of the files in it ({files})")
    if not os.path.isfile(path):
        raise CheckpointError(f"no checkpoint {path!r} (looked for {os.path.abspath(path)})")
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        raise CheckpointError(f"{path} is empty: fetch it again")
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path} is a web page, from a download that failed: fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a pointer of git-lfs, from a download that failed: fetch the file itself "
            "(git lfs pull)"
        )
    if path.endswith(".safetensors") or (len(head) > 9 and head[8:9] == b"{"):
        return _read_safetensors(path)
    _refuse_archive(path)
    if path.endswith(".pkl"):
        return _read_pickle(path)
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        ValueError,
        AttributeError,
        LookupError,
        TypeError,
        EOFError,
        OSError,
        pickle.UnpicklingError,
    ) as error:
        _unreadable(path, str(error), error)


def find_state(content: Any, path: str | os.PathLike) -> tuple[dict[str, Tensor], str]:
    """Return the state dict in a checkpoint's content, and its key there.

    Args:
        content: the result of :func:`read_checkpoint`.
        path: the path of the file, for messages.

    Returns:
        Tensors by name, and one of ``STATE_KEYS`` or ``bare``.

    Raises:
        CheckpointError: the content holds no tensors by name.
    """
    layout, state = "bare", content
    if isinstance(content, Mapping) and not is_state(content):
        for key in STATE_KEYS:
            if is_state(content.get(key)):
                layout, state = key, content[key]
                break
        else:
            layout = next((k for k in STATE_KEYS if isinstance(content.get(k), Mapping)), "bare")
            state = content if layout == "bare" else content[layout]
    if not is_state(state):
        found = f"a {type(state).__name__}"
        if isinstance(state, Mapping):
            found = f"a dictionary of {', '.join(map(str, state))[:200] or 'nothing'}"
        raise CheckpointError(
            f"{path} holds no weights, bare or under {', '.join(STATE_KEYS[:4])} and the like, "
            f"but {found}"
        )
    tensors = OrderedDict(
        (name, torch.as_tensor(value))
        for name, value in state.items()
        if isinstance(value, Tensor | np.ndarray) and name.rsplit(".", 1)[-1] not in _COUNTERS
    )
    _copy_versions(state, tensors)
    return tensors, layout


def without_prefix(
    state: Mapping[str, Tensor], wanted: Iterable[str]
) -> tuple[Mapping[str, Tensor], str]:
    """Remove the prefixes of wrappers from the names if they then fit.

    If a file has names under ``student.`` and other parts (mdistiller's checkpoints hold the
    teacher as well), the names under ``student.`` are taken.

    Args:
        state: tensors by name.
        wanted: names of the model.

    Returns:
        The state by plain name, and the prefix that was removed, "" for none.
    """
    names = set(wanted)
    taken, current = "", state
    best, best_prefix, matches = current, "", len(names & current.keys())
    while True:
        found = next(
            (p for p in PREFIXES if current and all(key.startswith(p) for key in current)), None
        )
        if found is None and any(key.startswith("student.") for key in current):
            found = "student."
        if found is None:
            return best, best_prefix
        taken += found
        longer = current
        current = OrderedDict(
            (key.removeprefix(found), value)
            for key, value in longer.items()
            if key.startswith(found)
        )
        _copy_versions(longer, current, found)
        # Of equally good prefixes the longest wins, because wrappers are no part of the model.
        if (count := len(names & current.keys())) > matches or not matches:
            best, best_prefix, matches = current, taken, count


def _copy_versions(source: Mapping, target: OrderedDict, prefix: str = "") -> None:
    """Copy the version marks of a state dict, by which modules upgrade older entries."""
    versions = getattr(source, "_metadata", None)
    if versions is not None:
        marks = {k.removeprefix(prefix): v for k, v in versions.items() if k.startswith(prefix)}
        target._metadata = OrderedDict(marks)  # type: ignore[attr-defined]


def check_finite(state: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Raise CheckpointError where a weight is NaN or infinite; the message names the entry."""
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {broken[0]} and {len(broken) - 1} other entries: "
            "its training diverged, give another checkpoint"
        )


def is_state(value: Any) -> bool:
    """Return whether a value maps names to tensors or arrays (an entry may be None)."""
    return (
        isinstance(value, Mapping)
        and any(isinstance(v, Tensor | np.ndarray) for v in value.values())
        and all(isinstance(k, str) for k in value)
        and all(v is None or isinstance(v, Tensor | np.ndarray) for v in value.values())
    )


def _read_safetensors(path: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}") from error


# The globals that a pickle of numpy arrays may name; any other could run code.
_PICKLED = {
    *((m, "_reconstruct") for m in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((m, "scalar") for m in ("numpy.core.multiarray", "numpy._core.multiarray")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("argparse", "Namespace"),
}


class _ArraysAlone(pickle.Unpickler):
    """Reads pickles of numpy arrays and builtin containers; anything else is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return super().find_class(module, name)


def _read_pickle(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return _ArraysAlone(file, encoding="latin1").load()
    except (
        ValueError,
        AttributeError,
        LookupError,
        TypeError,
        EOFError,
        OSError,
        ImportError,
        pickle.UnpicklingError,
    ) as error:
        _unreadable(path, str(error), error)


def _refuse_archive(path: str) -> None:
    """Raise CheckpointError for a tar or zip file; torch's own files are zip archives as well."""
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            members = [member.name for member in islice(archive, 50)]
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if any(name.endswith("constants.pkl") for name in members):
            raise CheckpointError(
                f"{path} is a TorchScript program, which holds code beside the weights: save the "
                "weights alone, torch.save(torch.jit.load(FILE).state_dict(), NEW)"
            )
        if any(name.endswith("data.pkl") for name in members):
            return
    else:
        return
    likely = [n for n in members if n.endswith((".pth", ".pt", ".th", ".tar"))] or members
    raise CheckpointError(
        f"{path} is an archive, not a checkpoint: unpack it and name the file inside, such as "
        + ", ".join(likely[:3])
    )


def _unreadable(path: str, reason: str, cause: Exception) -> NoReturn:
    # torch's own words advise weights_only=False, which would run whatever the file says.
    refused = re.search(r"(?:GLOBAL |got <class ')([\w.]+)", reason)
    if refused:
        raise CheckpointError(
            f"{path} holds an object of {refused[1]}, and only tensors, arrays, numbers and an "
            "argparse Namespace are read: anything else could run code. If you trust the file, "
            "save its weights alone: torch.save(model.state_dict(), FILE) where it was made"
        ) from cause
    raise CheckpointError(
        f"cannot read {path}: it is damaged, cut short, or not written by torch.save; fetch it "
        "again, or save the weights as torch.save(model.state_dict(), FILE)"
    ) from cause
