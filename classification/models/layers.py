"""Layers and initialisation that several families of networks share."""

from typing import Literal

from torch import Tensor, nn


def conv_bn(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Make a convolution without bias, padded to keep the size at stride 1, and batch norm."""
    padding = kernel // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


def global_pool() -> nn.Sequential:
    """Make a pooling of ``(B, C, H, W)`` of any size to the means ``(B, C)``."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of the groups (Zhang et al. 2018, figure 1). ``(B, C, H, W)``."""
    B, C, H, W = x.shape
    return x.view(B, groups, C // groups, H, W).transpose(1, 2).reshape(B, C, H, W)


def init_weights(
    model: nn.Module, *, mode: Literal["fan_in", "fan_out"] = "fan_out", linear_std: float = 0.0
) -> None:
    """Draw the convolutions from He et al.'s normal distribution, biases zero.

    Args:
        mode: ``fan_out`` or ``fan_in``, as the published recipe of the family has it.
        linear_std: if positive, linear weights are normal with this deviation and their biases
            zero; otherwise they keep torch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std > 0:
            nn.init.normal_(module.weight, std=linear_std)
            nn.init.zeros_(module.bias)
