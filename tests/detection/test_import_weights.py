"""Weights of other frameworks: equal features, a report on every key, and no code is run."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from safetensors.torch import save_file
from torch.testing import assert_close

from pcka.detection import ConfigError, student_config
from pcka.detection.importers import (
    convert,
    input_settings,
    read_weights,
    settings_to_change,
    write_checkpoint,
)
from pcka.detection.importers.command import main

FPN_R50 = [
    "MODEL.BACKBONE.NAME",
    "build_resnet_fpn_backbone",
    "MODEL.RESNETS.NORM",
    "FrozenBN",
    "MODEL.RESNETS.DEPTH",
    50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    256,
    "MODEL.FPN.OUT_CHANNELS",
    256,
    "MODEL.RESNETS.STRIDE_IN_1X1",
    False,
]
STEM_VAR = "backbone.bottom_up.stem.conv1.norm.running_var"
CASCADE = [
    "MODEL.ROI_HEADS.NAME",
    "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    True,
]
MASK = [
    "MODEL.MASK_ON",
    True,
    "MODEL.ROI_MASK_HEAD.NAME",
    "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV",
    2,
    "MODEL.ROI_MASK_HEAD.CONV_DIM",
    8,
]


@pytest.fixture
def plain(tiny):
    """Return ``plain(KEY, VALUE, ...)``: the tiny detector as a plain detectron2 config."""
    return lambda *opts: student_config(tiny(*opts))


def randomised(model, seed=0):
    """Fill in random weights and statistics, so that no two tensors are equal."""
    g = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=g)
        elif tensor.dim() == 1:
            tensor.normal_(0, 0.1, generator=g)
    return model.eval()


def imported(state, cfg, folder, **options):
    """Convert, write, and load weights by detectron2 as any other checkpoint."""
    result = convert(state, cfg, **options)
    assert not result.problems
    write_checkpoint(result.state, str(folder / "imported.pth"), author="test")
    torch.manual_seed(99)
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(str(folder / "imported.pth"))
    return result, model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "opts"),
    [
        ("resnet18", ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]),
        ("resnet50", []),
        (
            "resnext50_32x4d",
            ["MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4],
        ),
    ],
)
@torch.no_grad()
def test_torchvision_classifier(plain, tmp_path, name, opts):
    theirs = randomised(getattr(torchvision.models, name)(weights=None))
    result, ours = imported(theirs.state_dict(), plain(*FPN_R50, *opts), tmp_path)
    x = torch.rand(1, 3, 64, 96)
    y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    found = ours.backbone.bottom_up(x)
    for level in range(1, 5):
        y = getattr(theirs, f"layer{level}")(y)
        assert_close(found[f"res{level + 1}"], y, rtol=1e-4, atol=1e-4)
    assert {"fc.weight", "fc.bias"} < set(result.unmapped)
    assert "classifier" in result.unmapped["fc.weight"]
    assert any("no FPN" in note for note in result.notes)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_torchvision_detector(plain, tmp_path, eps):
    fpn = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet50", weights=None
    )
    randomised(fpn)
    for module in fpn.modules():
        if hasattr(module, "running_var"):
            module.eps = eps
    fpn.body.bn1.running_var *= 1e-4  # small, so that eps matters
    state = {f"backbone.{key}": value for key, value in fpn.state_dict().items()}
    state["rpn.head.cls_logits.weight"] = torch.zeros(3, 256, 1, 1)
    result, ours = imported(state, plain(*FPN_R50), tmp_path, bn_eps=eps)
    x = torch.rand(1, 3, 64, 96)
    theirs = fpn(x)
    found = ours.backbone(x)
    for index, level in enumerate(["p2", "p3", "p4", "p5"]):
        wanted = theirs[str(index)]
        assert_close(found[level] / wanted.std(), wanted / wanted.std(), rtol=1e-3, atol=1e-3)
    if eps == 0:
        assert convert(state, plain(*FPN_R50)).state[STEM_VAR].ne(result.state[STEM_VAR]).all()
    assert "rounds its anchors" in result.unmapped["rpn.head.cls_logits.weight"]
    assert "proposal_generator.rpn_head.conv.weight" in result.missing


@pytest.mark.slow
@torch.no_grad()
def test_torchvision_retinanets_names(plain, tmp_path):
    """Levels begin at p3; the second version of these weights has norms, and P6 from C5."""
    detection = torchvision.models.detection
    theirs = detection.retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None)
    randomised(theirs)
    opts = [
        "MODEL.META_ARCHITECTURE",
        "RetinaNet",
        *FPN_R50,
        "MODEL.BACKBONE.NAME",
        "build_retinanet_resnet_fpn_backbone",
        "MODEL.FPN.IN_FEATURES",
        ["res3", "res4", "res5"],
    ]
    _, ours = imported(theirs.state_dict(), plain(*opts), tmp_path)
    x = torch.rand(1, 3, 64, 96)
    for wanted, found in zip(theirs.backbone(x).values(), ours.backbone(x).values(), strict=True):
        assert_close(found / wanted.std(), wanted / wanted.std(), rtol=1e-3, atol=1e-3)


def mmdetection_layout(model):
    """Return a detectron2 model's tensors as mmdetection names and orders them.

    This is written from mmdetection's code, without the importer's tables.
    """
    out = {}

    def put(target, module):
        for part, tensor in module.state_dict().items():
            out[f"{target}.{part}"] = tensor.clone()

    def conv_bn(conv_name, bn_name, conv):
        out[f"{conv_name}.weight"] = conv.weight.detach().clone()
        put(bn_name, conv.norm)

    backbone = model.backbone
    conv_bn("backbone.conv1", "backbone.bn1", backbone.bottom_up.stem.conv1)
    for s, stage in enumerate(backbone.bottom_up.stages, 1):
        for b, block in enumerate(stage):
            at = f"backbone.layer{s}.{b}"
            for c in (1, 2, 3):
                if hasattr(block, f"conv{c}"):
                    conv_bn(f"{at}.conv{c}", f"{at}.bn{c}", getattr(block, f"conv{c}"))
            if block.shortcut is not None:
                conv_bn(f"{at}.downsample.0", f"{at}.downsample.1", block.shortcut)
    levels = [p for p in (2, 3, 4, 5) if hasattr(backbone, f"fpn_lateral{p}")]
    for i, p in enumerate(levels):
        put(f"neck.lateral_convs.{i}.conv", getattr(backbone, f"fpn_lateral{p}"))
        put(f"neck.fpn_convs.{i}.conv", getattr(backbone, f"fpn_output{p}"))
    for i, module in enumerate(backbone.top_block.children(), len(levels)):
        put(f"neck.fpn_convs.{i}.conv", module)
    if hasattr(model, "head"):
        for kind, subnet in (("cls", model.head.cls_subnet), ("reg", model.head.bbox_subnet)):
            convs = [m for m in subnet if isinstance(m, torch.nn.Conv2d)]
            for i, conv in enumerate(convs):
                put(f"bbox_head.{kind}_convs.{i}.conv", conv)
        put("bbox_head.retina_cls", model.head.cls_score)
        put("bbox_head.retina_reg", model.head.bbox_pred)
        cells = next(model.anchor_generator.cell_anchors.buffers())
        width, height = (cells[:, 2:] - cells[:, :2]).T.tolist()
        # By aspect ratio (height / width), then by size.
        order = sorted(
            range(len(cells)),
            key=lambda a: (round(height[a] / width[a], 2), height[a] * width[a]),
        )
        for name in ("retina_cls", "retina_reg"):
            for part in ("weight", "bias"):
                each = out[f"bbox_head.{name}.{part}"].chunk(len(cells))
                out[f"bbox_head.{name}.{part}"] = torch.cat([each[a] for a in order])
        return out
    rpn = model.proposal_generator.rpn_head
    put("rpn_head.rpn_conv", rpn.conv)
    put("rpn_head.rpn_cls", rpn.objectness_logits)
    put("rpn_head.rpn_reg", rpn.anchor_deltas)
    heads, predictors = model.roi_heads.box_head, model.roi_heads.box_predictor
    cascade = isinstance(heads, torch.nn.ModuleList)
    for k, (head, predictor) in enumerate(
        zip(heads, predictors, strict=True) if cascade else [(heads, predictors)]
    ):
        at = f"roi_head.bbox_head.{k}" if cascade else "roi_head.bbox_head"
        put(f"{at}.shared_fcs.0", head.fc1)
        put(f"{at}.fc_cls", predictor.cls_score)
        put(f"{at}.fc_reg", predictor.bbox_pred)
        if k == 2:  # x, y: delta / 30 here, delta * 0.033 there; width, height: 15 and 0.067
            for part in ("weight", "bias"):
                reg = out[f"{at}.fc_reg.{part}"]
                reg[[0, 1]] /= 30 * 0.033
                reg[[2, 3]] /= 15 * 0.067
    if model.roi_heads.mask_on:
        mask = model.roi_heads.mask_head
        for i in range(2):
            put(f"roi_head.mask_head.convs.{i}.conv", getattr(mask, f"mask_fcn{i + 1}"))
        put("roi_head.mask_head.upsample", mask.deconv)
        put("roi_head.mask_head.conv_logits", mask.predictor)
    return out


RETINANET = [
    "MODEL.META_ARCHITECTURE",
    "RetinaNet",
    "MODEL.BACKBONE.NAME",
    "build_retinanet_resnet_fpn_backbone",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    64,
    "MODEL.FPN.IN_FEATURES",
    ["res3", "res4", "res5"],
    "MODEL.RETINANET.SCORE_THRESH_TEST",
    0.0,
    "MODEL.ANCHOR_GENERATOR.SIZES",
    [[8, 11], [16, 22], [32, 44], [48, 60], [64, 90]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    [[0.5, 1.0, 2.0]],
]


@pytest.mark.parametrize(
    "opts", [[], MASK, CASCADE, RETINANET], ids=["faster", "mask", "cascade", "retinanet"]
)
@torch.no_grad()
def test_mmdetection_and_back(plain, tmp_path, opts, batch):
    cfg = plain("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, *opts)
    torch.manual_seed(3)
    model = randomised(build_model(cfg))
    result, back = imported(mmdetection_layout(model), cfg, tmp_path)
    assert not result.unmapped and not result.wrong_shape and not result.missing
    assert set(result.state) == set(model.state_dict())
    assert_close(dict(back.state_dict()), dict(model.state_dict()))
    inputs = batch((64, 96))
    wanted, found = (m(inputs)[0]["instances"] for m in (model, back))
    assert len(wanted) > 5
    assert_close(found.pred_boxes.tensor, wanted.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
    assert_close(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)
    assert found.pred_classes.equal(wanted.pred_classes)
    assert any("ReLU" in note for note in result.notes) == (opts is RETINANET)
    assert any("stds" in note for note in result.notes) == (opts is CASCADE)


def test_every_wrong_key_is_named(plain):
    cfg = plain()
    state = mmdetection_layout(build_model(cfg))
    state["backbone.layr2.0.conv1.weight"] = state.pop("backbone.layer2.0.conv1.weight")
    state["neck.fpn_convs.0.conv.weight"] = torch.zeros(3, 3)
    state["backbone.layer3.7.conv1.weight"] = torch.zeros(1)
    state["roi_head.bbox_head.fc_cls.weight"] = torch.zeros(81, 16)
    state["roi_head.mask_head.0.conv_logits.weight"] = torch.zeros(1)
    result = convert(state, cfg)
    assert "not a name" in result.unmapped["backbone.layr2.0.conv1.weight"]
    assert "no backbone.bottom_up.res4.7" in result.unmapped["backbone.layer3.7.conv1.weight"]
    assert "one mask head" in result.unmapped["roi_head.mask_head.0.conv_logits.weight"]
    assert result.wrong_shape == {
        "neck.fpn_convs.0.conv.weight": "(3, 3), (8, 8, 3, 3) in backbone.fpn_output2.weight",
        "roi_head.bbox_head.fc_cls.weight": "(81, 16), (3, 16) in "
        "roi_heads.box_predictor.cls_score.weight",
    }
    assert result.missing == ["backbone.bottom_up.res3.0.conv1.weight"]
    absent, wrong, homeless = result.problems
    assert "1 entries of the config's backbone and FPN have no source" in absent
    assert "neck.fpn_convs.0" in wrong and "fc_cls" not in wrong
    assert "res4.7" in homeless
    for key in (*result.unmapped, *result.wrong_shape, *result.missing, *result.mapped):
        assert key in result.report()


def test_heads_that_differ_stay_behind(plain):
    cfg = plain()
    state = mmdetection_layout(build_model(cfg))
    result = convert(state, cfg, meta={"mmdet_version": "1.2.0"})
    assert not result.problems
    assert "background is class 0" in result.unmapped["roi_head.bbox_head.fc_cls.weight"]
    state["bbox_head.conv_centerness.weight"] = torch.zeros(1)
    state["bbox_head.cls_convs.0.conv.weight"] = torch.zeros(1)
    assert (
        "same parametrisation" in convert(state, cfg).unmapped["bbox_head.cls_convs.0.conv.weight"]
    )


def test_no_names_that_are_known(plain):
    with pytest.raises(ConfigError, match=r"no ResNet of mmdetection.*patch_embed\.weight"):
        convert({"patch_embed.weight": torch.zeros(1)}, plain())


MM_CONFIG = """img_norm_cfg = dict(
    mean=[103.53, 116.28,
          123.675], std=[57.375, 57.12, 58.395], to_rgb=False)
model = dict(backbone=dict(type='ResNeXt', style='pytorch'),
    bbox_coder=dict(target_means=[0.0, 0.0], target_stds=[0.1, 0.1]))"""


def test_input_settings(plain):
    told = input_settings("mmdetection", {"config": MM_CONFIG})
    assert told == {
        "INPUT.FORMAT": "BGR",
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }
    with pytest.raises(ConfigError, match="these weights are in pytorch style"):
        input_settings("mmdetection", {"config": MM_CONFIG}, "caffe")
    # The caffe style is detectron2's default, the pytorch style is not.
    assert settings_to_change(input_settings("mmdetection", {}, "caffe"), plain()) == {}
    changes = settings_to_change(input_settings("classifier", {}), plain())
    assert list(changes) == [
        "INPUT.FORMAT",
        "MODEL.PIXEL_MEAN",
        "MODEL.PIXEL_STD",
        "MODEL.RESNETS.STRIDE_IN_1X1",
    ]
    pairs = [word for pair in changes.items() for word in pair]
    assert settings_to_change(changes, plain(*pairs)) == {}


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_files(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": Payload(mark)}, tmp_path / "evil.pth")
    with pytest.raises(ConfigError, match=r"evil\.pth.*save its weights alone"):
        read_weights(str(tmp_path / "evil.pth"))
    assert not mark.exists()
    for bad in ({"epoch": 3}, [1, 2], {"state_dict": {}}):
        torch.save(bad, tmp_path / "bad.pth")
        with pytest.raises(ConfigError, match="holds no weights"):
            read_weights(str(tmp_path / "bad.pth"))
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ConfigError, match=r"text\.pth"):
        read_weights(str(tmp_path / "text.pth"))
    torch.save({"model": {"module.a": torch.ones(1)}, "meta": {"cfg": "x"}}, tmp_path / "ok.pth")
    state, meta = read_weights(str(tmp_path / "ok.pth"))
    assert list(state) == ["a"] and meta == {"cfg": "x"}
    before = (tmp_path / "ok.pth").read_bytes()
    with pytest.raises(ConfigError, match=r"ok\.pth exists and is not overwritten"):
        write_checkpoint(state, str(tmp_path / "ok.pth"), author="test")
    assert (tmp_path / "ok.pth").read_bytes() == before
    with pytest.raises(ConfigError, match=r"has to end in \.pth"):
        write_checkpoint(state, str(tmp_path / "new.pkl"), author="test")


def test_safetensors(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    assert list(read_weights(str(tmp_path / "a.safetensors"))[0]) == ["a"]
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-2])
    with pytest.raises(ConfigError, match="no readable safetensors file"):
        read_weights(str(tmp_path / "cut.safetensors"))


def test_command(plain, tiny_yaml, tmp_path, capsys):
    state = mmdetection_layout(build_model(plain()))
    torch.save({"state_dict": state, "meta": {"config": MM_CONFIG}}, tmp_path / "mm.pth")
    torch.save({k: v for k, v in state.items() if "layer4.1" not in k}, tmp_path / "cut.pth")

    def run(file, output, *more):
        files = [str(tmp_path / file), "--config-file", str(tiny_yaml), "--output", str(output)]
        return main([*files, *more])

    whole, cut = tmp_path / "new/whole.pth", tmp_path / "new/cut.pth"
    assert run("mm.pth", whole, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["mapped"]) == len(state)
    assert report["change"]["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    assert run("cut.pth", cut) == 2
    text, error = capsys.readouterr()
    assert re.search(r"nothing written: \d+ entries .*no source: .*res5\.1", error)
    assert "without a source: backbone.bottom_up.res5.1.conv1.weight" in text
    assert "INPUT.FORMAT: RGB" in text
    assert os.listdir(tmp_path / "new") == ["whole.pth"]
