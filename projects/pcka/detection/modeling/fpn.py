"""One FPN over any bottom-up network, with the three kinds of top levels that detectors use."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import nn


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


@contextmanager
def reading(backbone: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Inside, an FPN leaves out the output convolution of each level that ``names`` do not need.

    Without p2's a ResNet-50-FPN takes 0.77 of its time. The levels left out come out as they go
    into that convolution; a backbone that is no detectron2 ``FPN`` runs whole.
    """
    if type(backbone) is not FPN:
        yield
        return
    convs = backbone.output_convs
    outputs = list(backbone.output_shape())
    levels, tops = outputs[: len(convs)], outputs[len(convs) :]
    needed = set(names)
    if needed & set(tops):
        needed.add(backbone.top_block.in_feature)
    backbone.output_convs = [
        conv if level in needed else nn.Identity()
        for level, conv in zip(reversed(levels), convs, strict=True)  # from p5 down
    ]
    try:
        yield
    finally:
        backbone.output_convs = convs
