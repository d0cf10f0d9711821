"""ShuffleNet V2 of width 1 for 32x32 images (Ma et al. 2018): a 1x1 stem, no striding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import name_features
from .layers import channel_shuffle, conv_bn, global_pool


class Unit(nn.Module):
    """Half the channels pass, the other half is convolved (stride 1). ``(B, C, H, W)``."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = conv_bn(half, half, 1)
        self.conv2, self.bn2 = conv_bn(half, half, 3, groups=half)
        self.conv3, self.bn3 = conv_bn(half, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, out = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(out)))))
        out = F.relu(self.bn3(self.conv3(out)))
        return channel_shuffle(torch.cat([kept, out], 1), 2)


class DownUnit(nn.Module):
    """Both branches are convolved at stride 2: ``(B, C, H, W)`` -> ``(B, C', H/2, W/2)``."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = conv_bn(in_channels, in_channels, 3, stride=2, groups=in_channels)
        self.conv2, self.bn2 = conv_bn(in_channels, half, 1)
        self.conv3, self.bn3 = conv_bn(in_channels, half, 1)
        self.conv4, self.bn4 = conv_bn(half, half, 3, stride=2, groups=half)
        self.conv5, self.bn5 = conv_bn(half, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        right = F.relu(self.bn5(self.conv5(right)))
        return channel_shuffle(torch.cat([left, right], 1), 2)


class ShuffleNetV2(nn.Module):
    """Images ``(B, 3, H, W)`` -> logits ``(B, num_classes)``; stages at strides 2, 4, 8."""

    features = name_features("layer1", "layer2", "layer3", last="relu")

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, 24, 1)
        self.layer1 = _stage(24, 116, 4)
        self.layer2 = _stage(116, 232, 8)
        self.layer3 = _stage(232, 464, 4)
        self.conv2, self.bn2 = conv_bn(464, 1024, 1)
        self.relu = nn.ReLU()
        self.pool = global_pool()
        self.linear = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(self.relu(self.bn2(self.conv2(x)))))


def _stage(in_channels: int, channels: int, units: int) -> nn.Sequential:
    return nn.Sequential(
        DownUnit(in_channels, channels), *(Unit(channels) for _ in range(units - 1))
    )


MODELS = {"shufflenet_v2_cifar": ShuffleNetV2}
