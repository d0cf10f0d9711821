"""One FPN over any bottom-up network, with the three kinds of top levels that detectors use."""

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7


def build_fpn(cfg: CfgNode, bottom_up: Backbone, *, top: str = "maxpool") -> FPN:
    """The FPN that ``MODEL.FPN`` describes: IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE.

    Args:
        cfg: a detectron2 config node.
        bottom_up: its IN_FEATURES are at the strides 4 or 8 to 32.
        top: the levels above p5. ``maxpool``: p6, every second cell of p5 (Faster R-CNN).
            ``c5``: p6 and p7 by convolution from the last stage (RetinaNet). ``p5``: the same
            from p5 (FCOS).

    Returns:
        The backbone: images ``(B, 3, H, W)`` -> {"p3": ``(B, OUT_CHANNELS, H/8, W/8)``, ...}.
    """
    fpn = cfg.MODEL.FPN
    last = fpn.IN_FEATURES[-1]
    if top == "maxpool":
        top_block = LastLevelMaxPool()
    elif top == "c5":
        top_block = LastLevelP6P7(bottom_up.output_shape()[last].channels, fpn.OUT_CHANNELS, last)
    elif top == "p5":
        top_block = LastLevelP6P7(fpn.OUT_CHANNELS, fpn.OUT_CHANNELS, "p5")
    else:
        raise ValueError(f"top is maxpool, c5 or p5, got {top!r}")
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=top_block,
        fuse_type=fpn.FUSE_TYPE,
    )
