"""Teachers from LazyConfig files: tiny ones in the style of detectron2's model zoo."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from pcka.detection import ConfigError, build_teacher
from pcka.detection.checks.preflight import check_run

RETINANET = """
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicBlock

model = get_config("common/models/retinanet.py").model
model.backbone.bottom_up.stem.out_channels = 8
model.backbone.bottom_up.stages = [
    L(ResNet.make_stage)(block_class=BasicBlock, num_blocks=1, stride_per_block=[stride],
                         in_channels=max(width // 2, 8), out_channels=width, norm="BN")
    for stride, width in ((1, 8), (2, 16), (2, 32), (2, 64))
]
model.backbone.out_channels = 8
model.backbone.top_block.in_channels = 64
model.head.input_shape = [ShapeSpec(channels=8)] * 5
model.head.conv_dims = [8]
train = dict(init_checkpoint="retinanet.pth", device="cuda")
dataloader = get_config("common/data/coco.py").dataloader
"""

# Like ViTDet, this has one map of stride 16, from which SimpleFeaturePyramid makes the levels, and
# images padded to a square. The transformer itself needs timm.
VITDET = (
    RETINANET
    + """
from torch import nn
from detectron2.modeling import Backbone, SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

class Patches(Backbone):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 16, 16)

    def forward(self, x):
        return {"last_feat": self.embed(x)}

    def output_shape(self):
        return {"last_feat": ShapeSpec(channels=16, stride=16)}

model.backbone = L(SimpleFeaturePyramid)(
    net=L(Patches)(), in_feature="last_feat", out_channels=8, scale_factors=(4.0, 2.0, 1.0, 0.5),
    top_block=L(LastLevelMaxPool)(), square_pad=128,
)
model.head_in_features = ["p2", "p3", "p4", "p5", "p6"]
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
model.input_format = "RGB"
dataloader.train.mapper.image_format = "RGB"
"""
)

PROPOSALS = (
    RETINANET
    + """
model._target_ = "detectron2.modeling.meta_arch.ProposalNetwork"
model = {key: model[key] for key in ("_target_", "backbone", "pixel_mean", "pixel_std")}
model["proposal_generator"] = None
"""
)


@pytest.fixture
def lazy(tiny, tmp_path):
    """Return ``lazy(source, KEY, VALUE, ...)``: a student's config whose teacher is that file."""

    def make(source, *opts, seed=4):
        path, weights = tmp_path / "teacher.py", tmp_path / "teacher.pth"
        path.write_text(source)
        if "model" in source:
            torch.manual_seed(seed)
            model = instantiate(LazyConfig.load(str(path)).model)
            torch.save({"model": model.state_dict()}, weights)
        return tiny(
            "MODEL.PCKA.TEACHER.CONFIG_FILE",
            str(path),
            "MODEL.PCKA.TEACHER.WEIGHTS",
            str(weights),
            *opts,
        )

    return make


def features_alone(cfg, images):
    """Return the features that the teacher's model gives without this project."""
    teacher = cfg.MODEL.PCKA.TEACHER
    model = instantiate(LazyConfig.load(teacher.CONFIG_FILE).model).eval()
    model.load_state_dict(torch.load(teacher.WEIGHTS)["model"])
    with torch.no_grad():
        return model.backbone(model.preprocess_image([{"image": x} for x in images]).tensor)


@pytest.mark.parametrize("source", [RETINANET, VITDET], ids=["RetinaNet", "ViTDet"])
@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_features_are_those_of_the_model_alone(lazy, batch, source, order):
    cfg = lazy(source, "INPUT.FORMAT", order)
    check_run(cfg)
    inputs = batch((64, 96), (80, 64))
    found = build_teacher(cfg)(inputs, torch.device("cpu"))
    own = "RGB" if source is VITDET else "BGR"
    images = [x["image"] if order == own else x["image"].flip(0) for x in inputs]
    wanted = features_alone(cfg, images)
    assert list(wanted) == [f"p{i}" for i in ((2, 3, 4, 5, 6) if own == "RGB" else (3, 4, 5, 6, 7))]
    for name, feature in wanted.items():
        assert torch.equal(found[name], feature)


def test_square_padding_teaches_only_where_the_student_sees(lazy, batch):
    cfg = lazy(VITDET)
    model = build_model(cfg).train()
    inputs = batch((64, 96), (80, 64))
    with EventStorage():
        losses = model(inputs)
        # The teacher's maps are cut to the student's images, so cells beyond them teach nothing.
        teacher = model.teacher(inputs, torch.device("cpu"))
        assert teacher["p2"].shape[-2:] == (32, 32)
        teacher["p2"][..., 24:, :] = teacher["p2"][..., :, 24:] = float("nan")
        again = model.distill({**features(model, inputs)}, teacher)
    assert losses.keys() >= {"loss_pcka_p2", "loss_pcka_p3", "loss_pcka_p4"}
    assert torch.isfinite(again["loss_pcka_p2"])
    sum(losses.values()).backward()


def features(model, inputs):
    with model.taps.record() as found:
        model.student(inputs)
    return found


def test_images_that_do_not_fit_the_square(lazy):
    cfg = lazy(VITDET, "INPUT.MAX_SIZE_TRAIN", 200)
    words = r"square of 128 pixels.*MAX_SIZE_TRAIN 200 .*lower it to 128.*square_pad=256"
    with pytest.raises(ConfigError, match=words):
        build_teacher(cfg)
    cfg.MODEL.PCKA.TEACHER.OPTS = ["model.backbone.square_pad=256"]
    assert build_teacher(cfg).model.backbone.padding_constraints["square_size"] == 256


def test_stages_of_other_names_and_widths(lazy, batch):
    terms = [
        {
            "FEATURES": ["res4"],
            "TEACHER_FEATURES": ["res5"],
            "ADAPTER": "conv1x1",
            "LOSS_ARGS": {"patch_size": 1},
        }
    ]
    model = build_model(lazy(RETINANET, "MODEL.PCKA.TERMS", terms)).train()
    with EventStorage():
        assert torch.isfinite(model(batch())["loss_pcka_res4"])


def test_weights_that_do_not_fill_the_backbone(lazy, tmp_path):
    cfg = lazy(RETINANET)
    state = torch.load(cfg.MODEL.PCKA.TEACHER.WEIGHTS)["model"]
    state.pop("backbone.fpn_output3.weight")
    torch.save({"model": state}, cfg.MODEL.PCKA.TEACHER.WEIGHTS)
    with pytest.raises(ConfigError, match=r"missing: backbone\.fpn_output3\.weight"):
        build_teacher(cfg)


def test_where_the_weights_come_from(lazy):
    for weights, words in (("", "no file 'retinanet.pth'"), ("other.pth", "no file 'other.pth'")):
        with pytest.raises(ConfigError, match=words):
            check_run(lazy(RETINANET, "MODEL.PCKA.TEACHER.WEIGHTS", weights))
    none = RETINANET.replace('"retinanet.pth"', '""')
    with pytest.raises(ConfigError, match=r"teacher\.py names no weights"):
        check_run(lazy(none, "MODEL.PCKA.TEACHER.WEIGHTS", ""))


def test_names_of_the_model_zoo(tiny):
    name = "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"
    opts = ("MODEL.PCKA.TEACHER.CONFIG_FILE", name, "MODEL.PCKA.TEACHER.WEIGHTS", "")
    with pytest.raises(ConfigError, match=r"fetched from .*42047764/.*|cannot fetch .*42047764/"):
        check_run(tiny(*opts))
    unpublished = ("MODEL.PCKA.TEACHER.CONFIG_FILE", "COCO-Detection/fcos_R_50_FPN_1x.py")
    with pytest.raises(ConfigError, match="the model zoo has no weights for"):
        check_run(tiny(*opts, *unpublished))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("model = {", r"LazyConfig .*teacher\.py: SyntaxError"),
        ("import a_module_that_is_nowhere", "ModuleNotFoundError: No module named 'a_module"),
        ("detector = dict()", "defines no `model`: it has detector"),
        (RETINANET + "model.backbone.bottom_up.depht = 3", "cannot build the teacher.*depht"),
        (RETINANET + "model = model.backbone", "FPN has no `backbone`"),
        (PROPOSALS, "is a ProposalNetwork, which has no preprocess_image"),
        (RETINANET + "del dataloader\nmodel.input_format = None", "does not say in which channel"),
        (RETINANET + "model.input_format = 'RGB'", "image_format: BGR, model.input_format: RGB"),
    ],
)
def test_files_that_cannot_teach(tiny, tmp_path, source, words):
    path = tmp_path / "teacher.py"
    path.write_text(source)
    with pytest.raises(ConfigError, match=words):
        build_teacher(tiny("MODEL.PCKA.TEACHER.CONFIG_FILE", str(path)))


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL.FPN.OUT_CHANNELS", 8], "strings such as .*got 'MODEL.FPN.OUT_CHANNELS'"),
        (["model.backbone.bottom_up.stem.depht=3"], "cannot build the teacher.*depht"),
    ],
)
def test_overrides(lazy, opts, words):
    with pytest.raises(ConfigError, match=words):
        build_teacher(lazy(RETINANET, "MODEL.PCKA.TEACHER.OPTS", opts))
    wide = ["model.backbone.out_channels=9"]
    with pytest.raises(ConfigError, match=r"other shape: backbone\.fpn_lateral3"):
        build_teacher(lazy(RETINANET, "MODEL.PCKA.TEACHER.OPTS", wide))
