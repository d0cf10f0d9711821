"""Adapters from the student's width to the teacher's, for losses that need equal widths."""

from torch import nn


def _identity(student_channels: int, teacher_channels: int) -> nn.Module:
    return nn.Identity()


def _conv1x1(student_channels: int, teacher_channels: int) -> nn.Module:
    return nn.Conv2d(student_channels, teacher_channels, kernel_size=1)


def _linear(student_channels: int, teacher_channels: int) -> nn.Module:
    return nn.Linear(student_channels, teacher_channels)


# The adapters that a term may name: (student channels, teacher channels) -> module. `conv1x1` takes
# maps (B, Cs, H, W), `linear` vectors (B, Cs), `identity` both. Adapters are trained with the
# student and dropped after training.
ADAPTERS = {"identity": _identity, "conv1x1": _conv1x1, "linear": _linear}
