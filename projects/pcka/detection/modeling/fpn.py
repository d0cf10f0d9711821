"""An FPN over any bottom-up network, with the three kinds of top levels that detectors use."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import nn


def build_fpn(cfg: CfgNode, bottom_up: Backbone, *, top: str = "maxpool") -> FPN:
    """Build the FPN that ``MODEL.FPN`` describes: IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE.

    Args:
        cfg: a detectron2 config node.
        bottom_up: a network whose IN_FEATURES have the strides 4 to 32, or 8 to 32.
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
    """Let an FPN skip the output convolutions whose levels are not read, while the context lasts.

    Without the one of p2, a ResNet-50-FPN takes 0.77 of its time. A skipped level is returned as
    it enters its convolution. A backbone that is no detectron2 ``FPN`` runs whole.

    Args:
        backbone: the backbone of a detector.
        names: levels to compute, such as ``p3``.
    """
    if type(backbone) is not FPN:
        yield
        return
    fpn: Any = backbone
    convs = fpn.output_convs
    outputs = list(fpn.output_shape())
    levels, tops = outputs[: len(convs)], outputs[len(convs) :]
    needed = set(names)
    if needed & set(tops):
        needed.add(fpn.top_block.in_feature)
    fpn.output_convs = [
        conv if level in needed else nn.Identity()
        # detectron2 keeps the convolutions from the coarsest level down.
        for level, conv in zip(reversed(levels), convs, strict=True)
    ]
    try:
        yield
    finally:
        fpn.output_convs = convs
