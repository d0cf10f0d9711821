"""From the student's width to the teacher's, where a loss compares channel by channel."""

from torch import nn


def _identity(student_channels: int, teacher_channels: int) -> nn.Module:
    return nn.Identity()


def _conv1x1(student_channels: int, teacher_channels: int) -> nn.Module:
    return nn.Conv2d(student_channels, teacher_channels, kernel_size=1)


# What a term may name as its adapter: (student channels, teacher channels) -> module on
# (B, Cs, H, W). Adapters are trained with the student and dropped after training.
ADAPTERS = {"identity": _identity, "conv1x1": _conv1x1}
