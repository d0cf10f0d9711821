"""Modules that bring a student's feature to the teacher's width, for losses that need it."""

from torch import nn


def _identity(student_channels: int, teacher_channels: int) -> nn.Module:
    return nn.Identity()


def _conv1x1(student_channels: int, teacher_channels: int) -> nn.Module:
    return nn.Conv2d(student_channels, teacher_channels, kernel_size=1)


def _conv1x1_bn_relu(student_channels: int, teacher_channels: int) -> nn.Module:
    conv = _conv1x1(student_channels, teacher_channels)
    return nn.Sequential(conv, nn.BatchNorm2d(teacher_channels), nn.ReLU())


def _linear(student_channels: int, teacher_channels: int) -> nn.Module:
    return nn.Linear(student_channels, teacher_channels)


# What a term may name as its adapter: (student channels, teacher channels) -> module. `linear`
# takes vectors (B, Cs), `identity` both, the others maps (B, Cs, H, W). `conv1x1_bn_relu` is the
# regressor of FitNet in the published CIFAR-100 tables: BatchNorm bounds what it returns, which
# a large weight needs. Adapters are trained with the student and dropped after training.
ADAPTERS = {
    "identity": _identity,
    "conv1x1": _conv1x1,
    "conv1x1_bn_relu": _conv1x1_bn_relu,
    "linear": _linear,
}
# The adapters of a kind of feature; the first is the one to recommend.
ADAPTERS_OF = {"map": ("conv1x1", "conv1x1_bn_relu"), "vector": ("linear",)}
