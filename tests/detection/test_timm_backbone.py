"""Networks of timm as backbones: shapes, freezing, weights from files, training, clear errors."""

import re
import sys

import pytest
import torch
import yaml
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model

from pcka import timm_networks
from pcka.detection import ConfigError, Trainer, load_config, student_config, train
from pcka.detection.checks.preflight import check_run
from pcka.detection.modeling.timm_backbone import TimmBackbone

STAGES = ["res2", "res3", "res4", "res5"]
# Channels of the stages; the last stands for networks of windows, whose maps are (B, H, W, C).
CHANNELS = {
    "resnet10t": (64, 128, 256, 512),
    "regnetx_002": (24, 56, 152, 368),
    "convnext_atto": (40, 80, 160, 320),
    "efficientnet_b0": (24, 40, 112, 320),
    "mobilenetv3_small_050": (8, 16, 24, 288),
    "mobilenetv4_conv_small_050": (16, 32, 48, 480),
    "swin_tiny_patch4_window7_224": (96, 192, 384, 768),
}
NET = "test_resnet"
PIXELS = [
    *("INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]"),
    *("MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]"),
]  # those of timm's test networks

IMAGENET = [
    *("MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]", "MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]")
]


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


def opts_of(name=NET, kind="", norm="BN"):
    """Return the KEY VALUE pairs of a network of timm."""
    return [
        *("MODEL.BACKBONE.NAME", f"build_{kind}timm_fpn_backbone"),
        *("MODEL.TIMM.NAME", name, "MODEL.RESNETS.NORM", norm),
        *PIXELS,
    ]


def make(*opts, name=NET, kind="", norm="BN"):
    wanted = ["MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.FPN.OUT_CHANNELS", 8]
    stages = STAGES[1:] if kind else STAGES
    for key in ("MODEL.RESNETS.OUT_FEATURES", "MODEL.FPN.IN_FEATURES"):
        wanted += [key, stages]
    cfg = load_config("", [*wanted, *opts_of(name, kind, norm), *opts])
    return build_backbone(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("name", CHANNELS)
def test_shapes_strides_and_channels(timm, name):
    with torch.device("meta"):
        backbone = make(name=name)
        outputs = backbone(torch.empty(2, 3, 128, 224))
        stages = backbone.bottom_up(torch.empty(2, 3, 128, 224))
    strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    assert {k: v.stride for k, v in backbone.output_shape().items()} == strides
    assert {k: tuple(v.shape) for k, v in outputs.items()} == {
        k: (2, 8, 128 // s, -(-224 // s)) for k, s in strides.items()
    }
    wanted = dict(zip(STAGES, CHANNELS[name], strict=True))
    assert {k: v.channels for k, v in backbone.bottom_up.output_shape().items()} == wanted
    assert {k: tuple(v.shape[1:]) for k, v in stages.items()} == {
        k: (c, 128 // s, 224 // s) for (k, c), s in zip(wanted.items(), (4, 8, 16, 32), strict=True)
    }


@pytest.mark.parametrize(("kind", "source"), [("retinanet_", "res5"), ("fcos_", "p5")])
def test_the_top_levels_of_dense_detectors(timm, kind, source):
    backbone = make(kind=kind)
    assert list(backbone.output_shape()) == ["p3", "p4", "p5", "p6", "p7"]
    images = torch.randn(1, 3, 128, 128)
    features = {**backbone.bottom_up(images), **backbone(images)}
    assert torch.equal(features["p6"], backbone.top_block.p6(features[source]))


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "efficientnet_b0"])
def test_maps_are_those_of_timm(timm, name):
    ours = TimmBackbone(name=name, out_features=STAGES, norm="BN").eval()
    theirs = timm.create_model(name, features_only=True).eval()
    indices = [theirs.feature_info.reduction().index(s) for s in (4, 8, 16, 32)]
    # timm's list of features calls `stages.0` of a ConvNeXt `stages_0`.
    state = {
        re.sub(r"^(stem|stages)\.", r"\1_", key): value
        for key, value in ours.network.state_dict().items()
    }
    theirs.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, wanted = ours(images), theirs(images)
    for level, index in zip(STAGES, indices, strict=True):
        torch.testing.assert_close(found[level], wanted[index])


def test_windows_take_images_of_any_size(timm):
    backbone = TimmBackbone(name="swin_tiny_patch4_window7_224", out_features=STAGES[:2]).eval()
    assert not any(".layers.2." in key for key in backbone.state_dict())  # what nobody reads
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
    assert maps["res3"].shape == (1, 192, 8, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "tf_efficientnet_lite0"])
def test_a_traced_network_holds_for_images_of_other_sizes(timm, name):
    # Windows and the padding of TensorFlow depend on the image's size.
    class Maps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = TimmBackbone(name=name, out_features=STAGES, norm="BN")

        def forward(self, x):
            return tuple(self.backbone(x).values())

    maps = Maps().eval()
    with torch.no_grad():
        traced = torch.jit.trace(maps, torch.randn(1, 3, 128, 160), check_trace=False)
        for size in ((128, 160), (224, 96), (352, 320)):
            images = torch.randn(1, 3, *size)
            torch.testing.assert_close(traced(images), maps(images))


def frozen_levels(backbone):
    """Return which maps no trained weight takes part in."""
    maps = backbone.train()(torch.randn(2, 3, 64, 64))
    return [level for level, x in maps.items() if not x.requires_grad]


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "mobilenetv3_small_050"])
def test_freezing(timm, name):
    for freeze_at in (0, 1, 2, 4, 6):
        backbone = TimmBackbone(name=name, out_features=STAGES, norm="BN", freeze_at=freeze_at)
        assert frozen_levels(backbone) == STAGES[: max(freeze_at - 1, 0)], freeze_at
        if freeze_at == 0:
            total = sum(p.requires_grad for p in backbone.parameters())
        frozen = [k for k, p in backbone.named_parameters() if not p.requires_grad]
        assert (len(frozen) > 0) == (freeze_at > 0) and len(frozen) <= total
        before = {k: v.clone() for k, v in backbone.named_buffers() if "running" in k}
        backbone(torch.randn(2, 3, 64, 64))
        still = {k for k, v in backbone.named_buffers() if k in before and v.equal(before[k])}
        assert bool(still) == (freeze_at > 0 and bool(before)), freeze_at


def test_every_weight_that_is_kept_gets_a_gradient(timm):
    for name in ("test_resnet", "test_efficientnet", "test_convnext", "mobilenetv3_small_050"):
        backbone = make(name=name)
        sum(
            level.square().sum() for level in backbone(torch.randn(2, 3, 64, 64)).values()
        ).backward()
        assert [k for k, p in backbone.named_parameters() if p.grad is None] == [], name


def test_frozen_normalisation_keeps_its_activation(timm):
    frozen = TimmBackbone(name="test_efficientnet", out_features=STAGES)  # FrozenBN
    plain = TimmBackbone(name="test_efficientnet", out_features=STAGES, norm="BN").eval()
    frozen.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    for a, b in zip(frozen.train()(images).values(), plain(images).values(), strict=True):
        torch.testing.assert_close(a, b)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in frozen.modules())


def test_the_message_where_timm_is_missing(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    # Without its cache: timm may have been imported before.
    monkeypatch.setattr(timm_networks, "import_timm", timm_networks.import_timm.__wrapped__)
    with pytest.raises(ConfigError, match=r"MODEL\.TIMM\.NAME: .*pip install 'pcka\[timm\]'"):
        check_run(tiny(*opts_of()))


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL.TIMM.NAME", "resnet51"], "no network 'resnet51', did you mean .*resnet50"),
        (["MODEL.TIMM.NAME", ""], r"MODEL\.TIMM\.NAME is empty"),
        (["MODEL.TIMM.NAME", "test_vit"], r"no pyramid of features .*\[16, 16, 16"),
        (["MODEL.TIMM.NAME", "visformer_small"], r"has the features res3, res4, res5, not \['res2"),
        (["MODEL.TIMM.NAME", "coatnet_0_224"], "cannot take an image of 128x160 pixels"),
        (["MODEL.TIMM.NAME", "inception_v3"], r"gives a map of \(192, 28, 36\) for res2"),
        (["MODEL.RESNETS.NORM", "GN"], "NORM of a network of timm is FrozenBN, BN, SyncBN, got"),
        (["INPUT.FORMAT", "BGR"], r"expects other images .*: write INPUT\.FORMAT RGB \("),
        (
            ["MODEL.TIMM.NAME", "resnet10t"],
            r"write MODEL\.PIXEL_MEAN \[123\.675, 116\.28, 103\.53\], MODEL\.PIXEL_STD \[58\.395, ",
        ),
    ],
)
def test_bad_input_is_one_line_before_training(timm, tiny_yaml, tmp_path, capsys, opts, words):
    arguments = [*opts_of(), *opts, "OUTPUT_DIR", str(tmp_path / "run")]
    assert train.main(["--config-file", str(tiny_yaml), *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(words, error), error
    assert not (tmp_path / "run").exists()


def test_statistics_of_ones_own(timm, tiny):
    cfg = tiny(*opts_of("resnet10t"), "MODEL.TIMM.CHECK_PIXELS", False)
    check_run(cfg)
    # A tag names the statistics of its weights.
    assert timm_networks.pixel_statistics("resnet18.a1_in1k")[0] == [123.675, 116.28, 103.53]


@pytest.fixture
def timm_teacher(timm, tiny_yaml, tmp_path):
    """Return KEY VALUE pairs of a teacher with a network of timm, and its files."""
    content = yaml.safe_load(tiny_yaml.read_text())
    content["MODEL"]["META_ARCHITECTURE"] = "GeneralizedRCNN"
    content["MODEL"].pop("PCKA")
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(content))
    opts = [*opts_of("test_efficientnet"), *IMAGENET]
    torch.manual_seed(3)
    model = build_model(load_config(str(tmp_path / "teacher.yaml"), opts))
    torch.save({"model": model.state_dict()}, tmp_path / "teacher.pth")
    teacher = "MODEL.PCKA.TEACHER"
    return [
        *(f"{teacher}.CONFIG_FILE", str(tmp_path / "teacher.yaml")),
        *(f"{teacher}.WEIGHTS", str(tmp_path / "teacher.pth"), f"{teacher}.OPTS", opts),
    ]


RETINANET = [
    *("MODEL.PCKA.STUDENT_META_ARCHITECTURE", "RetinaNet"),
    *("MODEL.RESNETS.OUT_FEATURES", STAGES[1:], "MODEL.FPN.IN_FEATURES", STAGES[1:]),
    *("MODEL.PCKA.TERMS.pcka.FEATURES", ["p3", "p4"]),
    *("MODEL.PCKA.TERMS.pcka.LOSS_ARGS.patch_size", [2, 1]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [48], [64]]),
]

FCOS = ["MODEL.PCKA.STUDENT_META_ARCHITECTURE", "FCOS", *RETINANET[2:-2]]
KINDS = [("", []), ("retinanet_", RETINANET), ("fcos_", FCOS)]


@pytest.mark.parametrize(("kind", "more"), KINDS)
def test_a_student_taught_by_another_network_of_timm(timm_teacher, tiny, batch, kind, more):
    cfg = tiny(*opts_of(kind=kind), *timm_teacher, *more, "SOLVER.MAX_ITER", 1)
    check_run(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    student = trainer.checkpointer.model
    before = {k: v.clone() for k, v in student.state_dict().items()}
    trainer.train()
    losses = trainer.storage.latest()
    assert 0 < losses["loss_pcka_p3"][0] <= 1
    moved = [k for k, v in student.state_dict().items() if not v.equal(before[k])]
    assert any(k.startswith("backbone.bottom_up.network.layer4.") for k in moved)


@pytest.mark.slow
def test_a_run_resumes_and_its_student_loads(timm_teacher, tiny_yaml, tmp_path):
    def run(folder, *opts):
        arguments = [*opts_of(), *timm_teacher, "OUTPUT_DIR", str(tmp_path / folder)]
        return train.main(["--config-file", str(tiny_yaml), *opts, *map(str, arguments)])

    assert run("whole") == 0
    assert run("resumed") == 0
    folder = tmp_path / "resumed"
    for name in ("model_final.pth", "summary.json"):
        (folder / name).unlink()
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    assert run("resumed", "--resume") == 0
    wanted, found = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("whole", "resumed")
    )
    assert all(torch.equal(found[k], v) for k, v in wanted.items())
    model = build_model(student_config(load_config(str(folder / "student.yaml"))))
    model.load_state_dict(wanted)


def save_classifier(folder, timm, name, ending=".safetensors"):
    from safetensors.torch import save_file

    torch.manual_seed(5)
    state = timm.create_model(name, num_classes=11).state_dict()
    path = str(folder / f"{name}{ending}")
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    return path, state


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_student_starts_from_timms_own_file(timm, tiny, tmp_path, ending, norm):
    path, state = save_classifier(tmp_path, timm, NET, ending)
    loss_off = ["MODEL.PCKA.LOSS_WEIGHT", 0]
    trainer = Trainer(tiny(*opts_of(norm=norm), *loss_off, "MODEL.WEIGHTS", path))
    trainer.resume_or_load(resume=False)
    network = trainer.checkpointer.model.backbone.bottom_up.network.state_dict()
    weights = {k for k in network if not k.endswith("num_batches_tracked")}
    assert len(weights) > 20 and all(torch.equal(network[k], state[k]) for k in weights)


def test_entries_of_other_names_are_taken_in_their_order(timm, tiny, tmp_path, caplog):
    _, state = save_classifier(tmp_path, timm, NET)
    path = str(tmp_path / "renamed.pth")
    torch.save({f"_{key.replace('layer', 'block')}": v for key, v in state.items()}, path)
    trainer = Trainer(tiny(*opts_of(), "MODEL.PCKA.LOSS_WEIGHT", 0, "MODEL.WEIGHTS", path))
    with caplog.at_level("WARNING"):
        trainer.resume_or_load(resume=False)
    assert "They are taken in their order" in caplog.text
    network = trainer.checkpointer.model.backbone.bottom_up.network.state_dict()
    weights = {k for k in network if not k.endswith("num_batches_tracked")}
    assert all(torch.equal(network[k], state[k]) for k in weights)


@pytest.mark.parametrize("other", ["test_convnext", "resnet10t"])
def test_weights_of_another_network_are_refused(timm, tiny_yaml, tmp_path, capsys, other):
    path, _ = save_classifier(tmp_path, timm, other)
    opts = [*opts_of(), "MODEL.PCKA.LOSS_WEIGHT", 0, "MODEL.WEIGHTS", path]
    opts += ["OUTPUT_DIR", str(tmp_path / "run")]
    assert train.main(["--config-file", str(tiny_yaml), *map(str, opts)]) == 2
    [*_, line] = capsys.readouterr().err.strip().splitlines()
    assert f"{path} is neither a detector of this config nor timm's test_resnet" in line


def test_a_teacher_has_to_be_a_whole_detector(timm_teacher, timm, tiny, tmp_path):
    path, _ = save_classifier(tmp_path, timm, "test_efficientnet")
    opts = [*timm_teacher, "MODEL.PCKA.TEACHER.WEIGHTS", path]
    with pytest.raises(ConfigError, match=r"backbone\.fpn_lateral2"):
        Trainer(tiny(*opts_of(), *opts))


def test_the_teachers_network_is_checked_as_well(timm_teacher, tiny):
    opts = [*opts_of("resnet10t"), "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"]
    with pytest.raises(
        ConfigError, match=r"the teacher's config .*teacher\.yaml: timm's resnet10t"
    ):
        check_run(tiny(*opts_of(), *timm_teacher, "MODEL.PCKA.TEACHER.OPTS", opts))


def test_student_yaml_of_other_backbones_has_no_such_keys(tiny):
    assert "TIMM" not in student_config(tiny()).MODEL
    assert "TIMM" in student_config(tiny(*opts_of())).MODEL
