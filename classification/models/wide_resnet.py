"""Wide ResNets for 32x32 images (Zagoruyko & Komodakis 2016): depth 6n + 4, pre-activation."""

from collections import OrderedDict
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from .features import name_features
from .layers import global_pool, init_weights


class PreactBlock(nn.Module):
    """Norm and ReLU before each 3x3 convolution; a 1x1 shortcut where the width changes."""

    def __init__(self, in_channels: int, channels: int, *, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convShortcut = None  # the name in the checkpoints
        if in_channels != channels:
            self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + (x if self.convShortcut is None else self.convShortcut(activated))


class WideResNet(nn.Module):
    """Images ``(B, 3, H, W)`` -> logits ``(B, num_classes)``; stages at strides 1, 2, 4.

    The maps of the stages are sums before norm and ReLU, as the literature distils them.
    """

    features = name_features("block1", "block2", "block3", last="relu")

    def __init__(self, num_classes: int, *, depth: int, widen: int):
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth is 6n + 4: 10, 16, 22, ..., got {depth}")
        blocks = (depth - 4) // 6
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = _stage(16, widths[0], blocks, stride=1)
        self.block2 = _stage(widths[0], widths[1], blocks, stride=2)
        self.block3 = _stage(widths[1], widths[2], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU()
        self.pool = global_pool()
        self.fc = nn.Linear(widths[2], num_classes)
        init_weights(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.pool(self.relu(self.bn1(x))))


def _stage(in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    layer = nn.Sequential(
        PreactBlock(in_channels, channels, stride=stride),
        *(PreactBlock(channels, channels, stride=1) for _ in range(blocks - 1)),
    )
    return nn.Sequential(OrderedDict(layer=layer))


MODELS = {
    f"wrn_{depth}_{widen}": partial(WideResNet, depth=depth, widen=widen)
    for depth, widen in ((16, 1), (16, 2), (40, 1), (40, 2))
}
