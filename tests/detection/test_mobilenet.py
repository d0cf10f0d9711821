"""MobileNetV2: torchvision's network to the bit, with the interface of a detectron2 backbone."""

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone, build_model
from torch import nn

from pcka.detection.modeling.mobilenet import MobileNetV2

STAGES = ["res2", "res3", "res4", "res5"]


def config(*opts, name="build_mobilenet_v2_fpn_backbone"):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.RESNETS.OUT_FEATURES = STAGES
    cfg.MODEL.FPN.IN_FEATURES = STAGES
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.merge_from_list(list(opts))
    return cfg


def make(*opts, **kwargs):
    return build_backbone(config(*opts, **kwargs), ShapeSpec(channels=3))


def test_imagenet_weights_give_torchvisions_features(tmp_path):
    """The guide's file, loaded by detectron2's checkpointer, gives the same features."""
    theirs = torchvision.models.mobilenet_v2().eval()
    with torch.no_grad():  # statistics that differ from new ones, as after training
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.1, 0.1)
    torch.save(theirs.state_dict(), tmp_path / "torchvision.pth")
    state = torch.load(tmp_path / "torchvision.pth", weights_only=True)
    renamed = {f"backbone.bottom_up.{key}": value for key, value in state.items()}
    torch.save(renamed, tmp_path / "mobilenet_v2.pth")

    opts = ("MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.RPN.IN_FEATURES", ["p4"])
    model = build_model(config(*opts)).eval()
    DetectionCheckpointer(model).load(str(tmp_path / "mobilenet_v2.pth"))
    ours = model.backbone.bottom_up
    assert any(isinstance(module, FrozenBatchNorm2d) for module in ours.modules())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found, x, wanted = ours(images), images, []
        for block in theirs.features:
            x = block(x)
            wanted.append(x)
    assert list(found) == STAGES
    for name, index in zip(STAGES, (3, 6, 13, 17), strict=True):
        assert torch.equal(found[name], wanted[index]), name
        # The last map of its stride.
        assert wanted[index + 1].shape != wanted[index].shape


@pytest.mark.parametrize(
    ("kind", "levels"),
    [("", [2, 3, 4, 5, 6]), ("retinanet_", [3, 4, 5, 6, 7]), ("fcos_", [3, 4, 5, 6, 7])],
)
def test_shapes_and_strides(kind, levels):
    stages = STAGES if 2 in levels else STAGES[1:]
    backbone = make("MODEL.FPN.IN_FEATURES", stages, name=f"build_{kind}mobilenet_v2_fpn_backbone")
    shapes = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in levels}
    assert backbone.output_shape() == shapes
    outputs = backbone(torch.randn(1, 3, 128, 256))
    assert {k: v.shape for k, v in outputs.items()} == {
        k: (1, 8, 128 // s.stride, 256 // s.stride) for k, s in shapes.items()
    }
    stages = backbone.bottom_up(torch.randn(1, 3, 64, 64))
    assert backbone.bottom_up.output_shape() == {
        k: ShapeSpec(channels=v.shape[1], stride=64 // v.shape[-1]) for k, v in stages.items()
    }
    source = {"": "p5", "retinanet_": "res5", "fcos_": "p5"}[kind]
    assert backbone.top_block.in_feature == source


@pytest.mark.parametrize(("freeze_at", "blocks"), [(0, 0), (1, 2), (2, 4), (3, 7), (5, 18)])
def test_freezing(freeze_at, blocks):
    backbone = make(
        "MODEL.BACKBONE.FREEZE_AT",
        freeze_at,
        "MODEL.RESNETS.NORM",
        "BN",
        name="build_mobilenet_v2_backbone",
    ).train()
    for index, block in enumerate(backbone.features):
        frozen = index < blocks
        assert all(p.requires_grad != frozen for p in block.parameters())
        assert any(isinstance(m, nn.BatchNorm2d) for m in block.modules()) != frozen
    before = {k: v.clone() for k, v in backbone.named_buffers() if "running" in k}
    backbone(torch.randn(2, 3, 32, 32))
    changed = {
        int(k.split(".")[1])
        for k, v in backbone.named_buffers()
        if "running" in k and not torch.equal(v, before[k])
    }
    assert changed == set(range(blocks, 18))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"out_features": ["res1"]}, "res2, res3, res4, res5, not"),
        ({"out_features": ["res5"], "norm": ""}, "needs a norm"),
    ],
)
def test_settings_that_it_does_not_have(arguments, words):
    with pytest.raises(ValueError, match=words):
        MobileNetV2(**arguments)
