"""Loading trained weights, in the layouts in which people have them, into a classifier."""

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from pcka.checkpoint_files import CheckpointError, read_checkpoint
from pcka.checkpoints import check_numbers, find_state, without_prefix

from .models import create_model, model_names

_DETECTOR = (
    "backbone.fpn",
    "backbone.bottom_up.",
    "stem.",
    "res2.",
    "proposal_generator.",
    "roi_heads.",
    "roi_head.",
    "rpn_head.",
    "bbox_head.",
    "neck.",
    "rpn.",
)

# Old files lack these counters of BatchNorm, and training does not need them.
_COUNTER = "num_batches_tracked"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class LoadedWeights:
    """A report of what was loaded.

    Attributes:
        path: the file.
        layout: where in it the weights stood, such as ``state_dict: module.*``.
        keys: how many entries were read.
        classes: names in the order of the outputs, which runs of this project keep; else empty.
    """

    path: str
    layout: str
    keys: int
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path} ({self.layout}, {self.keys} entries)"


def load_weights(model: nn.Module, path: str | os.PathLike) -> LoadedWeights:
    """Fill ``model`` from a checkpoint; every entry has to fit.

    The layouts are those of :mod:`pcka.checkpoints`. Older names of parameters are translated by
    the model's own loading hooks (torchvision's DenseNet). Only ``num_batches_tracked`` may be
    missing, as in files from before torch 0.4.1.

    Args:
        model: changed only if all entries fit.
        path: the path of the file.

    Raises:
        CheckpointError: no such file, no weights in it, weights with NaN or infinity, or those of
            another model or number of classes, with the names of the zoo that they fit.
    """
    path = os.path.expanduser(os.fspath(path))
    content = read_checkpoint(path)
    found, layout = find_state(content, path)
    state, prefix = without_prefix(found, model.state_dict())
    check_numbers(state, path, model.state_dict())
    # A trial on a copy: loading may rename entries, and a failed one leaves a model half filled.
    try:
        misfits = deepcopy(model).load_state_dict(state, strict=False)
    except RuntimeError as error:  # a shape
        raise CheckpointError(_explain(found, state, model, path)) from error
    if any(not k.endswith(_COUNTER) for k in misfits.missing_keys + misfits.unexpected_keys):
        raise CheckpointError(_explain(found, state, model, path))
    model.load_state_dict(state, strict=False)
    classes = content.get("classes") if isinstance(content, Mapping) else None
    names = tuple(map(str, classes)) if isinstance(classes, list) else ()
    names = names if len(names) == _classes(_shapes(state)) else ()
    return LoadedWeights(path, f"{layout}: {prefix}*" if prefix else layout, len(state), names)


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    """Return the shapes, by name, of all entries that have to fit."""
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith(_COUNTER)}


def _explain(
    content: Mapping[str, Tensor], state: Mapping[str, Tensor], model: nn.Module, path: str
) -> str:
    """Say why the entries of a file do not fit the model, and what they are.

    Args:
        content: the entries as the file names them.
        state: the same without the prefixes of wrappers.
    """
    if any(key.startswith(_DETECTOR) for key in content):
        return f"{path} holds a detector ({next(iter(content))}, ...), which teaches no classifier"
    found, wanted = _shapes(state), _shapes(model.state_dict())
    names, others = _names(wanted), _names(found)
    own = " or ".join(names) or _own_name(model)
    if set(names) & set(others):
        return (
            f"{path} is {own} for {_classes(found)} classes, and the model is to tell "
            f"{_classes(wanted)} apart: give weights for the classes of the data"
        )
    if others:
        return f"{path} fits {' or '.join(others)} ({_classes(found)} classes), not {own}"
    misfits = [
        f"{key} ({found.get(key, 'missing')} in the file, {wanted.get(key, 'missing')} wanted)"
        for key in {**wanted, **found}
        if found.get(key) != wanted.get(key)
    ]
    return (
        f"{path} fits neither {own} nor another model known by name: {len(misfits)} entries "
        f"differ, such as {', '.join(misfits[:3])}: give weights of {own}"
    )


def _own_name(model: nn.Module) -> str:
    """Return ``timm:NAME`` for a network of timm, else the name of the class."""
    described = getattr(model, "pretrained_cfg", None)
    name = described.get("architecture") if isinstance(described, Mapping) else None
    return f"timm:{name}" if name else type(model).__name__


def _classes(shapes: Shapes) -> int:
    """Return the rows of the last matrix, which is the classifier's; 0 without one."""
    return next((shape[0] for shape in reversed(shapes.values()) if len(shape) == 2), 0)


def _names(shapes: Shapes) -> list[str]:
    """Return the models of the zoo that have these shapes, at their number of classes."""
    classes = _classes(shapes)
    return [name for name, other in _zoo(classes).items() if other == shapes] if classes else []


@cache
def _zoo(classes: int) -> dict[str, Shapes]:
    with torch.device("meta"):  # shapes without memory
        return {name: _shapes(create_model(name, classes).state_dict()) for name in model_names()}
