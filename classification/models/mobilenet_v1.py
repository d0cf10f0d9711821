"""MobileNet V1 for ImageNet (Howard et al. 2017)."""

from torch import Tensor, nn

from .features import name_features
from .layers import conv_bn, global_pool

# width and stride of each pair of a depthwise and a 1x1 convolution
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1),
    (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


class MobileNetV1(nn.Module):
    """Images ``(B, 3, H, W)`` -> logits ``(B, num_classes)``; stages at strides 4, 8, 16, 32."""

    features = name_features("model.3", "model.5", "model.11", "model.13", last="model.13")

    def __init__(self, num_classes: int):
        super().__init__()
        channels = 32
        self.model = nn.Sequential(nn.Sequential(*conv_bn(3, channels, 3, stride=2), nn.ReLU()))
        for width, stride in BLOCKS:
            self.model.append(
                nn.Sequential(
                    *conv_bn(channels, channels, 3, stride=stride, groups=channels),
                    nn.ReLU(),
                    *conv_bn(channels, width, 1),
                    nn.ReLU(),
                )
            )
            channels = width
        self.pool = global_pool()
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.model(x)))


MODELS = {"mobilenet_v1": MobileNetV1}
