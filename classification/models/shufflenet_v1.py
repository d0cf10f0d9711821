"""ShuffleNet V1 with 3 groups for 32x32 images (Zhang et al. 2018): a 1x1 stem, no striding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import name_features
from .layers import channel_shuffle, conv_bn, global_pool

GROUPS = 3


class Unit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; at stride 2 beside an average pool.

    Args:
        channels: the width of the output; at stride 2 the pooled input is the last part of them.
        groups: the groups of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int, groups: int):
        super().__init__()
        self.stride, self.groups = stride, groups
        own = channels - in_channels if stride == 2 else channels
        width = own // 4
        self.conv1, self.bn1 = conv_bn(in_channels, width, 1, groups=groups)
        self.conv2, self.bn2 = conv_bn(width, width, 3, stride=stride, groups=width)
        self.conv3, self.bn3 = conv_bn(width, own, 1, groups=GROUPS)

    def forward(self, x: Tensor) -> Tensor:
        out = channel_shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        if self.stride == 2:
            return F.relu(torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1))
        return F.relu(out + x)


class ShuffleNetV1(nn.Module):
    """Images ``(B, 3, H, W)`` -> logits ``(B, num_classes)``; stages at strides 2, 4, 8."""

    features = name_features("layer1", "layer2", "layer3", last="layer3")

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, 24, 1)
        self.layer1 = _stage(24, 240, 4, groups=1)  # 24 channels are too few to group
        self.layer2 = _stage(240, 480, 8, groups=GROUPS)
        self.layer3 = _stage(480, 960, 4, groups=GROUPS)
        self.pool = global_pool()
        self.linear = nn.Linear(960, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.pool(self.layer3(self.layer2(self.layer1(x)))))


def _stage(in_channels: int, channels: int, units: int, *, groups: int) -> nn.Sequential:
    return nn.Sequential(
        Unit(in_channels, channels, stride=2, groups=groups),
        *(Unit(channels, channels, stride=1, groups=GROUPS) for _ in range(units - 1)),
    )


MODELS = {"shufflenet_v1_cifar": ShuffleNetV1}
