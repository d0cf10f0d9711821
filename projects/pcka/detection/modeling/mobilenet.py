"""MobileNetV2 as a detectron2 backbone: torchvision's network, its parameter names included."""

from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor
from torchvision.models import mobilenet_v2

from pcka.errors import ConfigError

from .fpn import build_fpn

# The index of the last block of torchvision's `features` at each stride. The names are those of a
# ResNet's stages at these strides, so that terms pair the two by name.
_STAGES = {
    "res2": (3, ShapeSpec(channels=24, stride=4)),
    "res3": (6, ShapeSpec(channels=32, stride=8)),
    "res4": (13, ShapeSpec(channels=96, stride=16)),
    "res5": (17, ShapeSpec(channels=320, stride=32)),
}
_STEM_END = 1  # the last block before the first stage: a convolution and a block at stride 2


class MobileNetV2(Backbone):
    """MobileNetV2 of width 1 (Sandler et al. 2018, arXiv 1801.04381) up to its last block.

    Images ``(B, 3, H, W)`` -> {"res2": ``(B, 24, H/4, W/4)``, "res3": ``(B, 32, H/8, W/8)``,
    "res4": ``(B, 96, H/16, W/16)``, "res5": ``(B, 320, H/32, W/32)``}, as far as
    ``out_features`` names them. The last convolution, to 1280 channels, is left out.
    """

    def __init__(self, *, out_features: list[str], norm: str = "FrozenBN", freeze_at: int = 0):
        """
        Args:
            out_features: names of ``res2`` ... ``res5``.
            norm: a name of detectron2's norms, such as FrozenBN, BN or SyncBN.
            freeze_at: 1 freezes all before res2, 2 res2 as well, ..., like detectron2's ResNet.

        Raises:
            ConfigError: an output that does not exist, or an empty norm.
        """
        super().__init__()
        unknown = [name for name in out_features if name not in _STAGES]
        if unknown:
            raise ConfigError(f"MobileNetV2 has the features {', '.join(_STAGES)}, not {unknown}")
        if not norm:
            raise ConfigError("MobileNetV2 needs a norm (MODEL.RESNETS.NORM), such as FrozenBN")
        network = mobilenet_v2(norm_layer=lambda channels: get_norm(norm, channels))
        self.features = network.features[: _STAGES["res5"][0] + 1]
        self._out_features = list(out_features)
        self._freeze(freeze_at)

    def _freeze(self, freeze_at: int) -> None:
        """Freeze the first parts, their running statistics included."""
        last = [-1, _STEM_END, *(end for end, _ in _STAGES.values())]
        for block in self.features[: last[min(freeze_at, len(_STAGES) + 1)] + 1]:
            block.requires_grad_(False)
            FrozenBatchNorm2d.convert_frozen_batchnorm(block)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        ends = {end: name for name, (end, _) in _STAGES.items()}
        outputs = {}
        for index, block in enumerate(self.features):
            x = block(x)
            if ends.get(index) in self._out_features:
                outputs[ends[index]] = x
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: _STAGES[name][1] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_mobilenet_v2_backbone(cfg, input_shape: ShapeSpec) -> MobileNetV2:
    """Build :class:`MobileNetV2` from a config.

    Reads ``MODEL.RESNETS.NORM``, ``MODEL.RESNETS.OUT_FEATURES`` and
    ``MODEL.BACKBONE.FREEZE_AT``. torchvision's ImageNet weights load into it once their keys
    begin with ``backbone.bottom_up.`` (docs/guide.md has the two lines). They expect RGB images,
    mean (123.675, 116.28, 103.53) and standard deviation (58.395, 57.12, 57.375).
    """
    if input_shape.channels != 3:
        raise ConfigError(f"MobileNetV2 takes images of 3 channels, got {input_shape.channels}")
    return MobileNetV2(
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        norm=cfg.MODEL.RESNETS.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_mobilenet_v2_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build MobileNetV2 with an FPN, p2 to p6."""
    return build_fpn(cfg, build_mobilenet_v2_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_retinanet_mobilenet_v2_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build MobileNetV2 with RetinaNet's FPN, p3 to p7."""
    return build_fpn(cfg, build_mobilenet_v2_backbone(cfg, input_shape), top="c5")


@BACKBONE_REGISTRY.register()
def build_fcos_mobilenet_v2_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build MobileNetV2 with the FPN of FCOS, p3 to p7."""
    return build_fpn(cfg, build_mobilenet_v2_backbone(cfg, input_shape), top="p5")
