"""The narrow backbone: equal to the stock network where that exists, and narrower ones."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

import pcka.detection.modeling.narrow_resnet  # noqa: F401 - registers the backbone
from pcka.detection.modeling.fpn import reading

LEVELS = ["res2", "res3", "res4", "res5"]


def make(*opts, name="build_narrow_resnet_fpn_backbone", depth=18, width=4):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = width
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = width
    cfg.MODEL.RESNETS.OUT_FEATURES = LEVELS
    cfg.MODEL.FPN.IN_FEATURES = LEVELS
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.merge_from_list(list(opts))
    return build_backbone(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("depth", [18, 34])
def test_shapes_strides_and_widths(depth):
    backbone = make(depth=depth)
    outputs = backbone(torch.randn(2, 3, 64, 96))
    strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    assert {k: v.stride for k, v in backbone.output_shape().items()} == strides
    assert {k: v.channels for k, v in backbone.output_shape().items()} == dict.fromkeys(strides, 8)
    for level, stride in strides.items():
        assert outputs[level].shape == (2, 8, 64 // stride, -(-96 // stride)), level
    widths = {k: v.channels for k, v in backbone.bottom_up.output_shape().items()}
    assert widths == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    blocks = [len(stage) for stage in backbone.bottom_up.stages]
    assert blocks == {18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}[depth]


@pytest.mark.parametrize("depth", [18, 34])
def test_at_the_stock_width_it_is_the_stock_backbone(depth):
    with torch.device("meta"):  # shapes alone: nothing is allocated
        narrow = make(depth=depth, width=64)
        stock = make(depth=depth, width=64, name="build_resnet_fpn_backbone")

    def names_and_shapes(m):
        return {k: v.shape for k, v in m.state_dict().items()}

    assert names_and_shapes(narrow) == names_and_shapes(stock)


def test_twice_the_width_has_four_times_the_weights():
    def weights(width):
        stages = make(width=width).bottom_up.stages
        convs = [m for stage in stages for m in stage.modules() if isinstance(m, nn.Conv2d)]
        return sum(conv.weight.numel() for conv in convs)

    assert weights(8) == 4 * weights(4) > 0


def test_the_stem_has_a_width_of_its_own_and_freezing_works():
    backbone = make("MODEL.RESNETS.STEM_OUT_CHANNELS", 6, "MODEL.BACKBONE.FREEZE_AT", 2)
    assert backbone.bottom_up.stem.conv1.weight.shape[:2] == (6, 3)
    assert backbone.bottom_up.res2[0].conv1.weight.shape[:2] == (4, 6)
    trained = {k: p.requires_grad for k, p in backbone.bottom_up.named_parameters()}
    assert not any(grad for k, grad in trained.items() if k.startswith(("stem", "res2")))
    assert all(grad for k, grad in trained.items() if not k.startswith(("stem", "res2")))


def test_gradients_reach_the_images():
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    sum(level.sum() for level in make()(images).values()).backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("depth", [50, 19])
def test_other_depths_are_refused_by_name(depth):
    with pytest.raises(ValueError, match=rf"DEPTH \[18, 34\], got {depth}"):
        make(depth=depth)


@pytest.mark.parametrize(
    "key, value",
    [("RES5_DILATION", 2), ("NUM_GROUPS", 2), ("DEFORM_ON_PER_STAGE", [False, False, False, True])],
)
def test_settings_that_would_be_ignored_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} "):
        make(f"MODEL.RESNETS.{key}", value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "groups", "width", "channels"),
    [(18, 1, 64, 64), (34, 1, 64, 64), (50, 1, 64, 256), (101, 32, 8, 256), (101, 64, 4, 256)],
)
@pytest.mark.parametrize(
    ("name", "top"), [("resnet", 6), ("retinanet_resnet", 7), ("fcos_resnet", 7)]
)
def test_resnets_and_resnexts_of_detectron2(depth, groups, width, channels, name, top):
    with torch.device("meta"):
        backbone = make(
            "MODEL.RESNETS.NUM_GROUPS",
            groups,
            "MODEL.RESNETS.WIDTH_PER_GROUP",
            width,
            "MODEL.RESNETS.RES2_OUT_CHANNELS",
            channels,
            name=f"build_{name}_fpn_backbone",
            depth=depth,
        )
        outputs = backbone(torch.empty(1, 3, 128, 256))
    strides = [2**i for i in range(2, top + 1)]
    assert [v.shape for v in outputs.values()] == [(1, 8, 128 // s, 256 // s) for s in strides]
    shapes = backbone.bottom_up.output_shape()
    assert [shapes[k].channels for k in LEVELS] == [channels * 2**i for i in range(4)]


def test_p6_and_p7_come_from_the_last_stage_or_from_p5():
    for kind, channels, source in (("retinanet", 32, "res5"), ("fcos", 8, "p5")):
        backbone = make(name=f"build_{kind}_narrow_resnet_fpn_backbone")
        assert backbone.top_block.p6.weight.shape[:2] == (8, channels)
        images = torch.randn(1, 3, 64, 64)
        features = {**backbone.bottom_up(images), **backbone(images)}
        assert torch.equal(features["p6"], backbone.top_block.p6(features[source]))


@pytest.mark.parametrize(
    ("names", "computed"),
    [
        (["p3", "p4"], {"fpn_output3", "fpn_output4"}),
        (["p2", "p6"], {"fpn_output2", "fpn_output5"}),  # p6 is made of p5
        (["p7"], {"fpn_output5"}),
        (["res3"], set()),
    ],
)
def test_an_fpn_leaves_out_what_nobody_reads(names, computed):
    top = "build_fcos_narrow_resnet_fpn_backbone" if "p7" in names else None
    backbone = make(**({"name": top} if top else {})).eval()
    images = torch.randn(1, 3, 64, 96)
    ran = set()
    for name, module in backbone.named_children():
        if name.startswith("fpn_output"):
            module.register_forward_hook(lambda *_, name=name: ran.add(name))
    wanted = backbone(images)
    assert ran == {"fpn_output2", "fpn_output3", "fpn_output4", "fpn_output5"}
    ran.clear()
    with reading(backbone, names):
        found = backbone(images)
    assert ran == computed
    for name in set(names) & found.keys():
        assert torch.equal(found[name], wanted[name])
    assert torch.equal(backbone(images)["p2"], wanted["p2"])  # afterwards as before


def test_any_other_backbone_runs_whole():
    network = nn.Conv2d(3, 3, 1)
    with reading(network, ["p3"]):
        assert network(torch.ones(1, 3, 2, 2)).shape == (1, 3, 2, 2)
