"""The base of the losses: their contract, precision, and checks of input and options."""

import math
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn

from pcka.core.grams import working_dtype


class DistillLoss(nn.Module):
    """A loss that a term may name; the contract is in :mod:`pcka.core.losses`.

    Args:
        options: the keyword arguments of the function behind the loss.
    """

    inputs: str  # "maps", "samples" or "logits"
    needs_equal_width = False
    needs_target = False
    similarity = ""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    @property
    def gather(self) -> bool:
        """Whether the loss reads the batches of all processes, which then need one shape."""
        return self.options.get("gather", False)

    def check_map(self, height: int, width: int) -> None:
        """Raise ValueError if a map of this size teaches nothing."""

    def without_padding(self, x: Tensor, inside: Tensor) -> Tensor:
        """Return a map ``(B, C, H, W)`` whose cells outside of ``inside`` add nothing to the loss.

        ``inside`` is ``(B, 1, H, W)``. Here the cells become 0, which adds nothing to a sum.
        """
        return x.masked_fill(~inside, 0)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


def in_full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run ``function(student, teacher, ...)`` in float32 (float64 stays), autocast off.

    The teacher is detached.
    """

    @wraps(function)
    def wrapped(student: Tensor, teacher: Tensor, *args, **options) -> Tensor:
        for side, value in (("student", student), ("teacher", teacher)):
            if not value.is_floating_point():
                raise TypeError(
                    f"{function.__name__} needs floating point, {side} is {value.dtype}"
                )
        dtype = working_dtype(student, teacher)
        with torch.autocast(student.device.type, enabled=False):
            return function(student.to(dtype), teacher.detach().to(dtype), *args, **options)

    return wrapped


def check_maps(name: str, student: Tensor, teacher: Tensor, *, equal_width: bool) -> None:
    """Raise ValueError unless both are maps ``(B, C, H, W)`` of one batch and one size."""
    shapes = tuple(student.shape), tuple(teacher.shape)
    if student.dim() != 4 or teacher.dim() != 4 or 0 in shapes[0] + shapes[1]:
        raise ValueError(f"{name} needs maps (B, C, H, W), got {shapes[0]} and {shapes[1]}")
    if shapes[0][0] != shapes[1][0] or shapes[0][2:] != shapes[1][2:]:
        raise ValueError(
            f"{name}: student {shapes[0]} and teacher {shapes[1]} differ in batch or map size: "
            "bring them to one size first"
        )
    if equal_width and shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"{name}: student {shapes[0]} and teacher {shapes[1]} differ in channels: adapt the "
            "student (conv1x1)"
        )


def check_samples(name: str, student: Tensor, teacher: Tensor) -> None:
    """Raise ValueError unless both hold one row per sample of one batch, ``(B, ...)``."""
    for side, value in (("student", student), ("teacher", teacher)):
        if value.dim() < 2 or 0 in value.shape:
            raise ValueError(f"{name} needs (B, ...), {side} is {tuple(value.shape)}")
    if len(student) != len(teacher):
        raise ValueError(
            f"{name} compares one batch, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def check_logits(name: str, student: Tensor, teacher: Tensor) -> None:
    """Raise ValueError unless both are logits ``(B, P)`` over the same classes."""
    shapes = tuple(student.shape), tuple(teacher.shape)
    if student.dim() != 2 or shapes[0] != shapes[1] or 0 in shapes[0]:
        raise ValueError(
            f"{name} needs logits (B, P) of one batch over the same classes, got {shapes[0]} "
            f"and {shapes[1]}"
        )


def check_positive(**values: float) -> None:
    """Raise ValueError for an argument that is not a positive, finite number."""
    for name, value in values.items():
        if not _is_number(value) or value <= 0:
            raise ValueError(f"{name} is a positive number, got {value!r}")


def check_weights(**values: float) -> None:
    """Raise ValueError for an argument that is not a finite number of 0 or more."""
    for name, value in values.items():
        if not _is_number(value) or value < 0:
            raise ValueError(f"{name} is a number and not negative, got {value!r}")


def _is_number(value) -> bool:
    # YAML reads 1e-3 as text and `yes` as a bool.
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
