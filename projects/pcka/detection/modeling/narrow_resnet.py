"""Narrow ResNets with FPN: the R18 and R34 layouts at any width, for teachers and students on CPU.

detectron2's own builder insists on 64 channels for these layouts; its classes do not.
"""

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

from pcka.errors import ConfigError

from .fpn import build_fpn

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


@BACKBONE_REGISTRY.register()
def build_narrow_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build the FPN of ``build_resnet_fpn_backbone`` on a ResNet of widths w, 2w, 4w, 8w.

    Reads ``MODEL.RESNETS``: DEPTH (18 or 34), RES2_OUT_CHANNELS (w), STEM_OUT_CHANNELS, NORM,
    OUT_FEATURES; ``MODEL.BACKBONE.FREEZE_AT``; ``MODEL.FPN``. With w = 64 the result has the
    layout and the parameter names of the stock backbone.

    Args:
        cfg: a detectron2 config node.
        input_shape: describes the images; only ``channels`` is used.

    Returns:
        The backbone: images ``(B, C, H, W)`` -> {"p2": ``(B, FPN.OUT_CHANNELS, H/4, W/4)``, ...}.

    Raises:
        ConfigError: a setting that these layouts do not have.
    """
    return build_fpn(cfg, _build_narrow_resnet(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_retinanet_narrow_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build the ResNet of :func:`build_narrow_resnet_fpn_backbone` with RetinaNet's p6 and p7."""
    return build_fpn(cfg, _build_narrow_resnet(cfg, input_shape), top="c5")


@BACKBONE_REGISTRY.register()
def build_fcos_narrow_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build the ResNet of :func:`build_narrow_resnet_fpn_backbone` with the p6 and p7 of FCOS."""
    return build_fpn(cfg, _build_narrow_resnet(cfg, input_shape), top="p5")


def _build_narrow_resnet(cfg, input_shape: ShapeSpec) -> ResNet:
    """Build the bottom-up part: res2 .. res5 at strides 4, 8, 16, 32."""
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH not in _BLOCKS:
        raise ConfigError(
            f"build_narrow_resnet_fpn_backbone has MODEL.RESNETS.DEPTH {sorted(_BLOCKS)}, "
            f"got {resnets.DEPTH}; deeper ones are in build_resnet_fpn_backbone."
        )
    # Ignored in silence, these would train another network than the config says.
    if resnets.NUM_GROUPS != 1 or resnets.RES5_DILATION != 1 or any(resnets.DEFORM_ON_PER_STAGE):
        raise ConfigError(
            "build_narrow_resnet_fpn_backbone has neither groups, dilation nor deformable "
            f"convolution, got MODEL.RESNETS NUM_GROUPS {resnets.NUM_GROUPS}, RES5_DILATION "
            f"{resnets.RES5_DILATION}, DEFORM_ON_PER_STAGE {resnets.DEFORM_ON_PER_STAGE}."
        )
    stem = BasicStem(
        in_channels=input_shape.channels,
        out_channels=resnets.STEM_OUT_CHANNELS,
        norm=resnets.NORM,
    )
    stages = []
    in_channels, out_channels = resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS
    for stage, blocks in enumerate(_BLOCKS[resnets.DEPTH]):
        first_stride = 1 if stage == 0 else 2  # the stem already has stride 4
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                blocks,
                stride_per_block=[first_stride] + [1] * (blocks - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                norm=resnets.NORM,
            )
        )
        in_channels, out_channels = out_channels, 2 * out_channels
    return ResNet(
        stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
    )
