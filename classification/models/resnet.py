"""ResNets for 32x32 images (He et al. 2016, section 4.2): depth 6n + 2, three stages.

Two kinds are in use and their checkpoints differ. The distillation literature projects a shortcut
by a 1x1 convolution wherever the shape changes; the paper's own "option A" takes every second
pixel and pads the channels with zeros, without parameters.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from .features import name_features
from .layers import conv_bn, global_pool, init_weights

NARROW = (16, 16, 32, 64)  # of the stem and of each stage
WIDE = (32, 64, 128, 256)  # the "x4" models: the stem only twice as wide

MakeShortcut = Callable[[int, int, int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; ``downsample`` is None where that is the identity."""

    def __init__(
        self, in_channels: int, channels: int, *, stride: int, downsample: nn.Module | None
    ):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, channels, 3, stride=stride)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


class _Trunk(nn.Module):
    """The network without its classifier: images ``(B, 3, H, W)`` -> ``(B, widths[-1])``."""

    features = name_features("layer1", "layer2", "layer3", last="layer3")

    def __init__(self, *, depth: int, widths: tuple[int, ...], shortcut: MakeShortcut):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth is 6n + 2: 8, 14, 20, ..., got {depth}")
        self.conv1, self.bn1 = conv_bn(3, widths[0], 3)
        blocks = (depth - 2) // 6
        self.layer1 = _stage(widths[0], widths[1], blocks, 1, shortcut)
        self.layer2 = _stage(widths[1], widths[2], blocks, 2, shortcut)
        self.layer3 = _stage(widths[2], widths[3], blocks, 2, shortcut)
        self.pool = global_pool()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.pool(self.layer3(self.layer2(self.layer1(x))))


class ResNet(_Trunk):
    """A ResNet with projected shortcuts: images ``(B, 3, H, W)`` -> logits ``(B, num_classes)``."""

    def __init__(self, num_classes: int, *, depth: int, widths: tuple[int, ...] = NARROW):
        super().__init__(depth=depth, widths=widths, shortcut=_projection)
        self.fc = nn.Linear(widths[-1], num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(super().forward(x))


class OptionAResNet(_Trunk):
    """A ResNet with shortcuts without parameters: ``(B, 3, H, W)`` -> ``(B, num_classes)``."""

    def __init__(self, num_classes: int, *, depth: int):
        super().__init__(depth=depth, widths=NARROW, shortcut=SubsampleAndPad)
        self.linear = nn.Linear(NARROW[-1], num_classes)
        init_weights(self, mode="fan_in")
        nn.init.kaiming_normal_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(super().forward(x))


class SubsampleAndPad(nn.Module):
    """``(B, C, H, W)`` -> ``(B, C', H / stride, W / stride)``, zeros on both sides of the C."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.stride, self.padding = stride, (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        x = x[..., :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.padding, self.padding))


def _projection(in_channels: int, channels: int, stride: int) -> nn.Module:
    return nn.Sequential(*conv_bn(in_channels, channels, 1, stride=stride))


def _stage(
    in_channels: int, channels: int, blocks: int, stride: int, shortcut: MakeShortcut
) -> nn.Sequential:
    changes = stride != 1 or in_channels != channels
    downsample = shortcut(in_channels, channels, stride) if changes else None
    return nn.Sequential(
        BasicBlock(in_channels, channels, stride=stride, downsample=downsample),
        *(BasicBlock(channels, channels, stride=1, downsample=None) for _ in range(blocks - 1)),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {
    **{f"resnet{depth}": partial(ResNet, depth=depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(ResNet, depth=depth, widths=WIDE) for depth in (8, 32)},
    **{
        f"resnet{depth}_option_a": partial(OptionAResNet, depth=depth)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
}
