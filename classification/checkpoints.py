"""Trained weights, in the layouts in which people have them, into a model of the zoo.

A checkpoint is read as data alone (``weights_only``): a file from the internet cannot run code.
"""

import argparse
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from .models import create_model, model_names

# Training scripts store their options as a Namespace and accuracies as numpy scalars; the latter
# are pickled under two module names, before and since numpy 2.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_SAFE_GLOBALS = [
    argparse.Namespace,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in ("f4", "f8", "i8")),
]
_STATE_KEYS = ("model", "state_dict")
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_DETECTOR = (
    "backbone.fpn", "backbone.bottom_up.", "proposal_generator.", "roi_heads.", "roi_head.",
    "rpn_head.", "bbox_head.", "neck.", "rpn.",
)  # fmt: skip

Shapes = dict[str, tuple[int, ...]]


class CheckpointError(ValueError):
    """A file that is no checkpoint of the model; the message names the file and the remedy."""


@dataclass(frozen=True)
class LoadedWeights:
    """What was loaded: ``layout`` says where in the file, such as ``state_dict: module.*``."""

    path: str
    layout: str
    keys: int

    def __str__(self) -> str:
        return f"{self.path} ({self.layout}, {self.keys} entries)"


def load_weights(model: nn.Module, path: str | os.PathLike) -> LoadedWeights:
    """Fill ``model`` from a checkpoint; every entry has to fit.

    Layouts: a state dict, bare or under ``model`` or ``state_dict``; its keys plain, under
    ``module.``, or under ``student.`` beside other parts, which are left aside (mdistiller's
    ``latest`` and ``best``, ReviewKD). Only ``num_batches_tracked`` may be missing: old files do.

    Args:
        model: is changed only if all fits.
        path: of a file written by ``torch.save``.

    Raises:
        CheckpointError: no such file, an archive, not readable as data, no state dict in it, or
            one of another model or number of classes, with the names of the zoo that it fits.
    """
    path = os.fspath(path)
    state, layout = _state_dict(_read(path), path)
    if _shapes(state) != _shapes(model.state_dict()):
        raise CheckpointError(_explain(_shapes(state), model, path))
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {broken[0]} and {len(broken) - 1} other entries: "
            "its training diverged, give another checkpoint"
        )
    model.load_state_dict(state, strict=False)
    return LoadedWeights(path, layout, len(state))


def _read(path: str) -> object:
    """The content of the file, on the CPU."""
    if os.path.isdir(path):
        files = ", ".join(sorted(os.listdir(path))[:5]) or "nothing"
        raise CheckpointError(f"{path} is a folder: name one of the files in it ({files})")
    if not os.path.isfile(path):
        raise CheckpointError(f"no checkpoint {path!r} (looked for {os.path.abspath(path)})")
    _refuse_archive(path)
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError, ValueError, AttributeError, LookupError, TypeError, EOFError, OSError,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        raise CheckpointError(_unreadable(path, str(error))) from error


def _refuse_archive(path: str) -> None:
    """mdistiller ships its teachers as a ``.tar``; torch's own files are zip archives as well."""
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            members = [member.name for member in islice(archive, 50)]
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if any(name.endswith("data.pkl") for name in members):
            return
    else:
        return
    likely = [n for n in members if n.endswith((".pth", ".pt", ".th", ".tar"))] or members
    raise CheckpointError(
        f"{path} is an archive, not a checkpoint: unpack it and name the file inside, such as "
        + ", ".join(likely[:3])
    )


def _unreadable(path: str, reason: str) -> str:
    # torch's own words advise weights_only=False, which would run whatever the file says.
    refused = re.search(r"GLOBAL ([\w.]+)", reason)
    with open(path, "rb") as file:
        head = file.read(64).lstrip().lower()
    if not head:
        return f"{path} is empty: fetch it again"
    if head.startswith((b"<!doctype", b"<html", b"version https://git-lfs")):
        return f"{path} is a web page or a link, from a download that failed: fetch it again"
    if path.endswith(".pkl"):
        return f"{path} is a pickle, as of detectron2's model zoo: a detector teaches no classifier"
    if refused:
        return (
            f"{path} holds an object of {refused[1]}, and only tensors, numbers and an argparse "
            "Namespace are read: anything else could run code. If you trust the file, save its "
            "weights alone: torch.save(model.state_dict(), FILE) where it was made"
        )
    return (
        f"cannot read {path}: it is damaged, cut short, or not written by torch.save; fetch it "
        "again, or save the weights as torch.save(model.state_dict(), FILE)"
    )


def _state_dict(content: object, path: str) -> tuple[dict[str, Tensor], str]:
    """The only model's, or the student's, tensors by plain name, and the layout they were in."""
    layout, state = "bare", content
    if isinstance(content, Mapping):
        layout = next((k for k in _STATE_KEYS if isinstance(content.get(k), Mapping)), "bare")
        state = content if layout == "bare" else content[layout]
    if not _holds_tensors(state):
        found = f"a {type(state).__name__}"
        if isinstance(state, Mapping):
            found = f"a dictionary of {', '.join(map(str, state))[:200] or 'nothing'}"
        raise CheckpointError(
            f"{path} holds no weights, bare or under {' or '.join(_STATE_KEYS)}, but {found}"
        )
    prefix = ""
    while True:
        found = next((w for w in _WRAPPERS if all(k.startswith(w) for k in state)), None)
        if found is None and any(k.startswith("student.") for k in state):
            found = "student."
        if found is None:
            return dict(state), f"{layout}: {prefix}*" if prefix else layout
        prefix += found
        state = {k.removeprefix(found): v for k, v in state.items() if k.startswith(found)}


def _holds_tensors(state: object) -> bool:
    return (
        isinstance(state, Mapping)
        and len(state) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    )


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    """Shapes by key, of all that has to fit."""
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}


def _explain(found: Shapes, model: nn.Module, path: str) -> str:
    """Why a file with the shapes ``found`` does not fit the model, and what it is."""
    if any(key.startswith(_DETECTOR) for key in found):
        return f"{path} holds a detector ({next(iter(found))}, ...), which teaches no classifier"
    wanted = _shapes(model.state_dict())
    names, others = _names(wanted), _names(found)
    own = " or ".join(names) or type(model).__name__
    if set(names) & set(others):
        return (
            f"{path} is {own} for {_classes(found)} classes, and the model is to tell "
            f"{_classes(wanted)} apart: a teacher has to know the classes of the data"
        )
    if others:
        return f"{path} fits {' or '.join(others)} ({_classes(found)} classes), not {own}"
    misfits = [
        f"  {key}: {found.get(key, 'missing')} in the file, {wanted.get(key, 'missing')} wanted"
        for key in {**wanted, **found}
        if found.get(key) != wanted.get(key)
    ]
    more = [f"  ... and {len(misfits) - 8} more"] if misfits[8:] else []
    return "\n".join(
        [f"{path} fits neither {own} nor another model known by name:", *misfits[:8], *more]
    )


def _classes(shapes: Shapes) -> int:
    """Rows of the last matrix, which is the classifier's."""
    return next((shape[0] for shape in reversed(shapes.values()) if len(shape) == 2), 0)


def _names(shapes: Shapes) -> list[str]:
    """The models of the zoo that have these shapes, at their number of classes."""
    classes = _classes(shapes)
    return [name for name, other in _zoo(classes).items() if other == shapes] if classes else []


@cache
def _zoo(classes: int) -> dict[str, Shapes]:
    with torch.device("meta"):  # shapes without memory
        return {name: _shapes(create_model(name, classes).state_dict()) for name in model_names()}
