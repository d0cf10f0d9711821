"""VGG with batch norm for 32x32 images (Simonyan & Zisserman 2015): one linear layer on top."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from .features import name_features
from .layers import global_pool, init_weights

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Images ``(B, 3, H, W)`` -> logits ``(B, num_classes)``.

    The five stages have strides 1, 2, 4, 8, 8 on images of 32x32, where the last maps are too
    small to be halved once more, and 1, 2, 4, 8, 16 on larger ones.
    """

    features = name_features("block0", "block1", "block2", "block3", "block4", last="block4")

    def __init__(self, num_classes: int, *, convolutions: tuple[int, int, int, int, int]):
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            _block(*shape) for shape in zip(inputs, WIDTHS, convolutions, strict=True)
        )
        self.pool = global_pool()
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        init_weights(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.block0, self.block1, self.block2):
            x = F.max_pool2d(block(x), 2)
        x = self.block3(x)
        if min(x.shape[-2:]) >= 8:
            x = F.max_pool2d(x, 2)
        return self.classifier(self.pool(self.block4(x)))


def _block(in_channels: int, channels: int, convolutions: int) -> nn.Sequential:
    layers = []
    for _ in range(convolutions):
        # With a bias, which the norm makes useless, because the checkpoints have one.
        layers += [
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
        in_channels = channels
    return nn.Sequential(*layers)


MODELS = {
    "vgg8": partial(VGG, convolutions=(1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, convolutions=(1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, convolutions=(2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, convolutions=(2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, convolutions=(2, 2, 4, 4, 4)),
}
