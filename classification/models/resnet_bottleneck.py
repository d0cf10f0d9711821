"""ResNet-50 for 32x32 images: ImageNet's four stages behind a 3x3 stem without striding."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from .features import name_features
from .layers import conv_bn, global_pool, init_weights


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the output is four times as wide as the 3x3."""

    def __init__(self, in_channels: int, width: int, *, stride: int):
        super().__init__()
        channels = 4 * width
        self.conv1, self.bn1 = conv_bn(in_channels, width, 1)
        self.conv2, self.bn2 = conv_bn(width, width, 3, stride=stride)
        self.conv3, self.bn3 = conv_bn(width, channels, 1)
        changes = stride != 1 or in_channels != channels
        self.shortcut = nn.Sequential(
            *(conv_bn(in_channels, channels, 1, stride=stride) if changes else [])
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class BottleneckResNet(nn.Module):
    """Images ``(B, 3, H, W)`` -> logits ``(B, num_classes)``; stages at strides 1, 2, 4, 8."""

    features = name_features("layer1", "layer2", "layer3", "layer4", last="layer4")

    def __init__(self, num_classes: int, *, blocks: tuple[int, int, int, int]):
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, 64, 3)
        self.layer1 = _stage(64, 64, blocks[0], stride=1)
        self.layer2 = _stage(256, 128, blocks[1], stride=2)
        self.layer3 = _stage(512, 256, blocks[2], stride=2)
        self.layer4 = _stage(1024, 512, blocks[3], stride=2)
        self.pool = global_pool()
        self.linear = nn.Linear(2048, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(self.pool(x))


def _stage(in_channels: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        Bottleneck(in_channels, width, stride=stride),
        *(Bottleneck(4 * width, width, stride=1) for _ in range(blocks - 1)),
    )


MODELS = {"resnet50_cifar": partial(BottleneckResNet, blocks=(3, 4, 6, 3))}
