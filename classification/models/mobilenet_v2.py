"""MobileNet V2 for 32x32 images (Sandler et al. 2018) as the distillation literature uses it.

Half the width, expansion 6, and one striding less than on ImageNet (stage 2 keeps its size).
"""

from torch import Tensor, nn

from .features import name_features
from .layers import conv_bn, global_pool, init_weights

# expansion, width before halving, blocks, stride
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST = 1280


class InvertedResidual(nn.Module):
    """Expand by 1x1, depthwise 3x3, project by 1x1 without ReLU; added where the shape is kept."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, expansion: int):
        super().__init__()
        width = expansion * in_channels
        self.residual = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            *conv_bn(in_channels, width, 1),
            nn.ReLU(),
            *conv_bn(width, width, 3, stride=stride, groups=width),
            nn.ReLU(),
            *conv_bn(width, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Images ``(B, 3, H, W)`` -> logits ``(B, num_classes)``; stages at strides 2, 4, 8, 16."""

    features = name_features("blocks.1", "blocks.2", "blocks.4", "blocks.6", last="conv2")

    def __init__(self, num_classes: int):
        super().__init__()
        channels = 32 // 2
        self.conv1 = nn.Sequential(*conv_bn(3, channels, 3, stride=2), nn.ReLU())
        self.blocks = nn.Sequential()
        for expansion, width, count, first_stride in STAGES:
            stage = nn.Sequential()
            for index in range(count):
                stride = first_stride if index == 0 else 1
                stage.append(
                    InvertedResidual(channels, width // 2, stride=stride, expansion=expansion)
                )
                channels = width // 2
            self.blocks.append(stage)
        self.conv2 = nn.Sequential(*conv_bn(channels, LAST, 1), nn.ReLU())
        self.pool = global_pool()
        self.classifier = nn.Sequential(nn.Linear(LAST, num_classes))
        init_weights(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.conv2(self.blocks(self.conv1(x)))))


MODELS = {"mobilenet_v2_cifar": MobileNetV2}
