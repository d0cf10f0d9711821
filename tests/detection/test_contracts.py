"""The ten contracts of a distillation training step (docs/architecture.md)."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from detector_runs import train
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import setup_logger

from pcka.core import patch_cka
from pcka.detection import ConfigError, Trainer, build_teacher, load_config, student_config
from pcka.detection.config import config_differences
from pcka.detection.config_terms import term_specs
from pcka.detection.engine.checkpointer import StudentCheckpointer
from pcka.detection.modeling.teacher_source import teacher_config
from pcka.experiments.detection.metrics import read_scalars

ROOT = Path(__file__).parents[2]
ADAPTED = [{"FEATURES": ["p3"], "LOSS_ARGS": {"patch_size": 2}, "ADAPTER": "conv1x1"}]


def weights(path):
    return torch.load(os.path.join(path, "model_final.pth"))["model"]


def assert_same(a, b):
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different, different


MASK = ("MODEL.MASK_ON", True)
CASCADE = (
    "MODEL.ROI_HEADS.NAME",
    "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    True,
)
RETINANET = (
    "MODEL.BACKBONE.NAME",
    "build_retinanet_narrow_resnet_fpn_backbone",
    "MODEL.ANCHOR_GENERATOR.SIZES",
    [[8], [16], [32], [48], [64]],
)
DETECTORS = {
    "Faster R-CNN": ("GeneralizedRCNN", ()),
    "Mask R-CNN": ("GeneralizedRCNN", MASK),
    "Cascade R-CNN": ("GeneralizedRCNN", CASCADE),
    "Cascade Mask R-CNN": ("GeneralizedRCNN", (*CASCADE, *MASK)),
    "Panoptic FPN": ("PanopticFPN", MASK),
    "RetinaNet": ("RetinaNet", RETINANET),
    "FCOS": ("FCOS", ("MODEL.BACKBONE.NAME", "build_fcos_narrow_resnet_fpn_backbone")),
}


@pytest.fixture
def pair(tiny, tmp_path):
    """Return ``pair(teacher, student, terms, KEY, VALUE, ...)``: a model of two ``DETECTORS``."""

    def make(teacher, student, terms, *opts):
        architecture, teacher_opts = DETECTORS[teacher]
        teacher_opts = ["MODEL.META_ARCHITECTURE", architecture, *teacher_opts]
        weights_file = tmp_path / "teacher.pth"
        opts = (
            *opts,
            "MODEL.PCKA.TEACHER.OPTS",
            teacher_opts,
            "MODEL.PCKA.TEACHER.WEIGHTS",
            str(weights_file),
        )
        torch.save(build_model(teacher_config(tiny(*opts))).state_dict(), weights_file)
        architecture, student_opts = DETECTORS[student]
        cfg = tiny(
            *opts,
            *student_opts,
            "MODEL.PCKA.STUDENT_META_ARCHITECTURE",
            architecture,
            "MODEL.PCKA.TERMS",
            terms,
        )
        return build_model(cfg).train()

    return make


def small(features, **keys):
    """Return one term with patches of one cell, so that the tiny maps have enough."""
    return [{"FEATURES": features, "LOSS_ARGS": {"patch_size": 1, "grouping": "batch"}, **keys}]


@pytest.mark.parametrize(
    ("teacher", "student", "levels"),
    [
        ("Faster R-CNN", "Faster R-CNN", ["p2", "p6"]),
        ("Cascade Mask R-CNN", "Faster R-CNN", ["p2", "p5"]),
        ("Mask R-CNN", "Mask R-CNN", ["p2", "p5"]),
        ("Panoptic FPN", "Cascade Mask R-CNN", ["p2", "p5"]),
        ("FCOS", "Cascade R-CNN", ["p3", "p6"]),
        ("RetinaNet", "RetinaNet", ["p3", "p7"]),
        ("RetinaNet", "FCOS", ["p3", "p7"]),
        ("Faster R-CNN", "RetinaNet", ["p3", "p6"]),
        ("FCOS", "Faster R-CNN", ["p3", "p6"]),
        ("Faster R-CNN", "FCOS", ["p3", "p6"]),
    ],
)
def test_1_any_detector_teaches_any_other(pair, batch, teacher, student, levels):
    model = pair(teacher, student, small(levels))
    assert type(model.student).__name__ == DETECTORS[student][0]
    assert type(model.teacher.model).__name__ == DETECTORS[teacher][0]
    inputs = batch((128, 192), (192, 128))
    with EventStorage():
        losses = model(inputs)
    own = {name for name in losses if "pcka" not in name}
    assert losses.keys() == own | {f"loss_pcka_{level}" for level in levels} and own
    assert ("loss_mask" in own) == ("Mask" in student)
    sum(losses[f"loss_pcka_{level}"] for level in levels).backward()
    assert model.student.backbone.fpn_lateral3.weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert "instances" in model.eval()(inputs[:1])[0]


def test_1_the_students_own_forward_gives_its_own_losses(tiny, batch):
    cfg = tiny()
    model = build_model(cfg).train()
    plain = build_model(student_config(cfg)).train()
    plain.load_state_dict(model.student.state_dict())
    inputs = batch()
    with EventStorage():
        torch.manual_seed(3)
        wanted = plain(copy.deepcopy(inputs))
        torch.manual_seed(3)
        found = model(inputs)
    for name, loss in wanted.items():
        assert torch.equal(found[name], loss)


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_2_teacher_preprocesses_for_itself(tiny, batch, order):
    cfg = tiny(
        "MODEL.PCKA.TEACHER.OPTS",
        [
            "INPUT.FORMAT",
            order,
            "MODEL.PIXEL_MEAN",
            [10.0, 60.0, 200.0],
            "MODEL.PIXEL_STD",
            [1.0, 20.0, 70.0],
        ],
    )
    teacher = build_teacher(cfg)
    alone = build_model(teacher_config(cfg)).eval()
    DetectionCheckpointer(alone).load(teacher_config(cfg).MODEL.WEIGHTS)
    inputs = batch((64, 90), (70, 64))  # the student's format is BGR
    found = teacher(inputs, torch.device("cpu"))
    own = [{"image": x["image"].flip(0) if order == "RGB" else x["image"]} for x in inputs]
    with torch.no_grad():
        wanted = alone.backbone(alone.preprocess_image(own).tensor)
    assert wanted.keys() <= found.keys() and "res2" in found
    for name, feature in wanted.items():
        assert torch.equal(found[name], feature)


def test_2_different_padding_compares_the_same_pixels(tiny, batch):
    cfg = tiny()
    model = build_model(cfg).train()
    inputs = batch((64, 64), (60, 70))
    with EventStorage():
        model(inputs)
        before = {k: v.item() for k, v in model(inputs).items() if "pcka" in k}
        model.teacher.model.backbone._square_pad = 160  # the padding of ViTDet
        padded = model.teacher(inputs, torch.device("cpu"))
        after = model(inputs)
    assert padded["p2"].shape[-2:] == (40, 40)
    for name, value in before.items():
        # Both are equal except for the influence of the padding at the borders.
        assert after[name].item() == pytest.approx(value, abs=0.1)


def test_3_levels_by_name_with_channels_from_output_shape(tiny):
    with pytest.raises(ConfigError, match="no feature 'p7': it has p2, p3, p4, p5, p6, res2"):
        build_model(tiny("MODEL.PCKA.TERMS", [{"FEATURES": ["p7"]}]))
    channel = [{"FEATURES": ["p3"], "LOSS_ARGS": {"patch_size": 2}}]
    wide = ("MODEL.FPN.OUT_CHANNELS", 12, "MODEL.PCKA.TERMS", channel)
    with pytest.raises(ConfigError, match=r"p3 has 12 channels.* 8: set the adapter 'conv1x1'"):
        build_model(tiny(*wide))
    channel[0]["ADAPTER"] = "conv1x1"
    model = build_model(tiny(*wide))
    assert model.distill.adapters["pcka_p3"].weight.shape == (8, 12, 1, 1)


def test_3_levels_of_one_pyramid_only(pair):
    """The shared levels of p2 to p6 and p3 to p7 are paired by name; the others are errors."""
    model = pair("Faster R-CNN", "RetinaNet", small(["p3", "p4", "p5", "p6"]))
    pairs = [(p.student, p.teacher, p.stride) for p in model.distill.pairings.values()]
    assert pairs == [("p3", "p3", 8), ("p4", "p4", 16), ("p5", "p5", 32), ("p6", "p6", 64)]
    with pytest.raises(ConfigError, match=r"no feature 'p7' and 0 of stride 128"):
        pair("Faster R-CNN", "RetinaNet", small(["p7"]))


def test_3_stages_of_other_widths_through_adapters(pair, batch):
    """The stages res2 to res5 of the student are half as wide as the teacher's."""
    stages = ["res2", "res3", "res4", "res5"]
    terms = small(stages, LOSS_ARGS={"patch_size": 1}, ADAPTER="conv1x1")
    model = pair("RetinaNet", "FCOS", terms)
    widths = {k: a.weight.shape[:2] for k, a in model.distill.adapters.items()}
    assert widths == {f"pcka_res{i}": (2**i * 2, 2**i) for i in (2, 3, 4, 5)}
    with EventStorage():
        losses = model(batch((64, 96), (96, 64)))
    sum(losses[f"loss_pcka_{stage}"] for stage in stages).backward()
    assert all(a.weight.grad.abs().sum() > 0 for a in model.distill.adapters.values())
    assert model.student.backbone.bottom_up.res2[0].conv1.weight.grad.abs().sum() > 0


def test_4_teacher_is_not_in_the_module_tree(tiny, batch):
    cfg = tiny("MODEL.PCKA.TERMS", ADAPTED)
    model = build_model(cfg)
    inside = {id(p) for p in model.parameters()} | {id(m) for m in model.modules()}
    teacher = model.teacher.model
    assert not inside & {id(x) for x in (*teacher.parameters(), *teacher.modules())}
    optimizer = Trainer.build_optimizer(cfg, model)
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in model.distill.parameters()} <= optimized
    assert not optimized & {id(p) for p in teacher.parameters()}
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    model.train()
    assert not any(m.training for m in teacher.modules())
    with EventStorage():
        sum(model(batch()).values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert_same(before, teacher.state_dict())  # no batch statistics either


@pytest.mark.slow
def test_5_checkpoint_loads_into_stock_detectron2(tiny, tmp_path):
    """A stock R18 student with adapters is read back where pcka cannot be imported."""
    cfg = tiny(
        "MODEL.BACKBONE.NAME",
        "build_resnet_fpn_backbone",
        "MODEL.RESNETS.RES2_OUT_CHANNELS",
        64,
        "MODEL.FPN.OUT_CHANNELS",
        12,
        "SOLVER.MAX_ITER",
        1,
        "MODEL.PCKA.TERMS",
        ADAPTED,
    )
    trainer = train(cfg)
    (tmp_path / "check.py").write_text(
        "import sys; sys.modules['pcka'] = None\n"
        "import json, torch\n"
        "from detectron2.config import get_cfg\n"
        "from detectron2.modeling import build_model\n"
        "cfg = get_cfg(); cfg.merge_from_file(sys.argv[1] + '/student.yaml')\n"
        "model = build_model(cfg)\n"
        "state = torch.load(sys.argv[1] + '/model_final.pth', weights_only=True)['model']\n"
        "keys = model.load_state_dict(state, strict=False)\n"
        "total = float(sum(p.double().sum() for p in model.parameters()))\n"
        "print(json.dumps([keys.missing_keys, keys.unexpected_keys, total]))\n"
    )
    run = subprocess.run(
        [sys.executable, tmp_path / "check.py", cfg.OUTPUT_DIR], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    missing, unexpected, total = json.loads(run.stdout.splitlines()[-1])
    assert missing == unexpected == []
    adapters = torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))["distill"]
    assert_same(adapters, trainer.model.distill.state_dict())
    assert list(adapters) == ["adapters.pcka_p3.weight", "adapters.pcka_p3.bias"]
    wanted = float(sum(p.double().sum() for p in trainer.model.student.parameters()))
    assert total == pytest.approx(wanted, rel=1e-12)


def test_5_round_trip_keeps_version_marks(tiny, tmp_path):
    model, other = (build_model(tiny("MODEL.PCKA.TERMS", ADAPTED)) for _ in range(2))
    StudentCheckpointer(model, str(tmp_path)).save("saved")
    state = torch.load(tmp_path / "saved.pth")["model"]
    plain = model.student.state_dict()
    assert state._metadata == plain._metadata
    assert_same(state, plain)
    checkpointer = StudentCheckpointer(other, str(tmp_path))
    checkpointer.resume_or_load("", resume=True)
    assert checkpointer.incompatible == ([], [], [])
    assert_same(model.state_dict(), other.state_dict())
    nothing = {"backbone.nothing": torch.zeros(1), "head.nothing": torch.zeros(1)}
    torch.save({"model": nothing}, tmp_path / "nothing.pth")
    checkpointer.load(str(tmp_path / "nothing.pth"))
    assert sorted(checkpointer.incompatible.unexpected_keys) == list(nothing)
    assert "backbone.fpn_lateral2.weight" in checkpointer.incompatible.missing_keys


def test_5_checkpoints_of_version_0_1_resume(tiny, tmp_path):
    """Version 0.1 kept the adapters among the weights, under ``distill.``."""
    opts = ("MODEL.PCKA.TERMS", ADAPTED, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2)
    straight = tiny(*opts, "OUTPUT_DIR", str(tmp_path / "straight"))
    train(straight)
    os.mkdir(tmp_path / "old")
    content = torch.load(tmp_path / "straight" / "model_0000001.pth")
    adapters = {f"distill.{key}": value for key, value in content.pop("distill").items()}
    content["model"].update(adapters)
    torch.save(content, tmp_path / "old" / "model_0000001.pth")
    (tmp_path / "old" / "last_checkpoint").write_text("model_0000001.pth")
    resumed = train(tiny(*opts, "OUTPUT_DIR", str(tmp_path / "old")), resume=True)
    assert resumed.start_iter == 2
    contents = [torch.load(tmp_path / name / "model_final.pth") for name in ("straight", "old")]
    for part in ("model", "distill"):
        assert_same(contents[0][part], contents[1][part])


@pytest.mark.parametrize("weight", [0, 1])
def test_6_a_student_starts_from_a_detector_of_other_classes(tiny, tmp_path, caplog, weight):
    """Entries of another shape are left out, as in plain detectron2, and named in the log."""
    other = build_model(student_config(tiny("MODEL.ROI_HEADS.NUM_CLASSES", 5)))
    torch.save({"model": other.state_dict()}, tmp_path / "other.pth")
    opts = ("MODEL.PCKA.LOSS_WEIGHT", weight, "MODEL.WEIGHTS", str(tmp_path / "other.pth"))
    cfg = tiny(*opts, "SOLVER.MAX_ITER", 1)
    os.makedirs(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert "roi_heads.box_predictor.cls_score.weight" in caplog.text
    found, wanted = trainer.model.student.state_dict(), other.state_dict()
    different = [key for key in wanted if found[key].shape != wanted[key].shape]
    parts = ("cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias")
    assert different == [f"roi_heads.box_predictor.{part}" for part in parts]
    same = [key for key in wanted if key not in different]
    assert_same({key: found[key] for key in same}, {key: wanted[key] for key in same})
    trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize("amp", [False, True])
def test_8_measured_gradients_change_nothing(tiny, tmp_path, amp):
    opts = ("SOLVER.AMP.ENABLED", amp, "SOLVER.AMP.DTYPE", "bfloat16", "MODEL.PCKA.TERMS", ADAPTED)
    folders = [str(tmp_path / name) for name in ("off", "on")]
    train(tiny(*opts, "OUTPUT_DIR", folders[0]))
    train(tiny(*opts, "OUTPUT_DIR", folders[1], "MODEL.PCKA.GRADIENT_PERIOD", 2))
    assert_same(*map(weights, folders))
    off, on = (read_scalars(Path(folder, "metrics.json"), "gradient/") for folder in folders)
    assert off == {}
    [(name, (iterations, values))] = on.items()
    assert name == "gradient/pcka_p3" and iterations.tolist() == [3] and 0 < values[0] < 1e3
    [(losses, total, share)] = [
        [read_scalars(Path(folders[1], "metrics.json"), prefix)[prefix][1][-1] for prefix in names]
        for names in (("loss_pcka_p3", "total_loss", "share/pcka_p3"),)
    ]
    assert 0 < share < 1 and share == pytest.approx(losses / total, rel=0.5)  # of medians


def test_8_gradients_are_those_of_the_features(tiny, batch):
    model = build_model(tiny("MODEL.PCKA.GRADIENT_PERIOD", 1)).train()
    inputs = batch()
    torch.manual_seed(3)
    with EventStorage() as storage:
        model(inputs)
    torch.manual_seed(3)
    with model.taps.record() as features, EventStorage():
        losses = model.student(inputs)
        taught = model.teacher(inputs, torch.device("cpu"))
        terms = model.distill(features, taught)
    own = torch.autograd.grad(sum(losses.values()), features["p3"], retain_graph=True)[0].norm()
    pull = torch.autograd.grad(terms["loss_pcka_p3"], features["p3"])[0].norm()
    logged = storage.latest()["gradient/pcka_p3"][0]
    assert logged == pytest.approx((pull / own).item(), rel=1e-5)


def test_8_a_negative_gradient_period_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"GRADIENT_PERIOD is a number of iterations"):
        build_model(tiny("MODEL.PCKA.GRADIENT_PERIOD", -1))


@pytest.mark.parametrize(
    ("workers", "evaluate", "detector"),
    [
        (0, 2, "Faster R-CNN"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((2, 2, "Faster R-CNN"), (0, 0, "RetinaNet"), (0, 0, "FCOS"))
        ),
    ],
)
def test_5_killed_and_resumed_ends_in_the_same_weights(tiny, tmp_path, workers, evaluate, detector):
    architecture, detector = DETECTORS[detector]
    opts = (
        *detector,
        "MODEL.PCKA.STUDENT_META_ARCHITECTURE",
        architecture,
        "MODEL.PCKA.TERMS",
        [
            {**ADAPTED[0], "SCHEDULE": {"kind": "cosine", "off_at": 0.9}},
            {**ADAPTED[0], "NAME": "ratio", "WEIGHT": {"ratio": 0.5}},
        ],
        "DATALOADER.NUM_WORKERS",
        workers,
        "SOLVER.MAX_ITER",
        5,
        "SOLVER.CHECKPOINT_PERIOD",
        2,
        "TEST.EVAL_PERIOD",
        evaluate,
    )
    straight = tiny(*opts, "OUTPUT_DIR", str(tmp_path / "straight"))
    train(straight)
    broken = tiny(*opts, "OUTPUT_DIR", str(tmp_path / "broken"))

    class Killed(Exception):
        pass

    step = Trainer.run_step

    def run_step(self):
        if self.iter == 4 and self.start_iter == 0:
            raise Killed
        step(self)

    Trainer.run_step = run_step
    try:
        with pytest.raises(Killed):
            train(broken)
    finally:
        Trainer.run_step = step
    torch.manual_seed(99)  # another process starts from another state
    resumed = train(broken, resume=True)
    assert resumed.start_iter == 4
    assert_same(weights(straight.OUTPUT_DIR), weights(broken.OUTPUT_DIR))


def test_6_teacher_preflight(tiny, tmp_path):
    cfg = tiny()
    state = torch.load(cfg.MODEL.PCKA.TEACHER.WEIGHTS)["model"]
    broken = {("bakbone" + k[8:] if "res3" in k else k): v for k, v in state.items()}
    broken["backbone.fpn_output2.weight"] = torch.zeros(3, 3)
    torch.save({"model": broken}, tmp_path / "broken.pth")
    with pytest.raises(ConfigError) as error:
        build_model(tiny("MODEL.PCKA.TEACHER.WEIGHTS", str(tmp_path / "broken.pth")))
    text = str(error.value)
    assert "missing: backbone.bottom_up.res3.0.conv1.norm.bias" in text and "\n" not in text
    assert "other shape: backbone.fpn_output2.weight: (3, 3) in the file" in text
    assert "unexpected: bakbone" in text
    # Heads may be missing: they never run.
    torch.save(
        {"model": {k: v for k, v in state.items() if k.startswith("backbone")}},
        tmp_path / "backbone.pth",
    )
    build_model(tiny("MODEL.PCKA.TEACHER.WEIGHTS", str(tmp_path / "backbone.pth")))


def test_6_model_weights_reach_the_student_alone(tiny, tmp_path):
    cfg = tiny()
    model = build_model(cfg)
    before = {k: v.clone() for k, v in model.teacher.model.state_dict().items()}
    zeros = {k: torch.zeros_like(v) for k, v in model.student.state_dict().items()}
    torch.save({"model": zeros}, tmp_path / "init.pth")
    # With heuristics, as for .pkl files: keys are matched by their endings.
    StudentCheckpointer(model).load(str(tmp_path / "init.pth") + "?matching_heuristics=True")
    assert model.student.backbone.fpn_lateral2.weight.abs().sum() == 0
    assert_same(before, model.teacher.model.state_dict())


def test_6_the_teacher_leaves_the_random_state_alone(tiny):
    torch.manual_seed(5)
    with_teacher = build_model(tiny())
    torch.manual_seed(5)
    alone = build_model(tiny("MODEL.PCKA.LOSS_WEIGHT", 0))
    assert_same(alone.student.state_dict(), with_teacher.student.state_dict())


@pytest.mark.parametrize(
    "off", [("MODEL.PCKA.TERMS", []), ("MODEL.PCKA.LOSS_WEIGHT", 0)], ids=["no terms", "weight 0"]
)
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_7_without_terms_it_is_detectron2_to_the_bit(tiny, tmp_path, off, workers):
    opts = (*off, "DATALOADER.NUM_WORKERS", workers, "SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 2)
    cfg = tiny(
        *opts,
        "OUTPUT_DIR",
        str(tmp_path / "ours"),
        "MODEL.PCKA.TEACHER.CONFIG_FILE",
        "no teacher is looked for",
    )
    ours = train(cfg)
    assert ours.model.teacher is None

    class Plain(DefaultTrainer):
        build_evaluator = Trainer.build_evaluator

    class Arguments:
        eval_only = False

    plain_cfg = get_cfg()
    plain_cfg.merge_from_file(os.path.join(cfg.OUTPUT_DIR, "student.yaml"))
    plain_cfg.OUTPUT_DIR = str(tmp_path / "plain")
    default_setup(plain_cfg, Arguments)
    plain = Plain(plain_cfg)
    plain.resume_or_load(resume=False)
    plain.train()
    assert_same(weights(plain_cfg.OUTPUT_DIR), weights(cfg.OUTPUT_DIR))


def test_8_losses_are_summable_and_diagnostics_are_logged(tiny, batch):
    model = build_model(tiny()).train()
    inputs = batch()
    with EventStorage() as storage:
        losses = model(inputs)
        assert all(name.startswith("loss_") and v.dim() == 0 for name, v in losses.items())
        logged = storage.latest()
    with model.taps.record() as student, EventStorage():
        model.student(inputs)
    teacher = model.teacher(inputs, torch.device("cpu"))
    wanted = patch_cka(student["p3"], teacher["p3"], patch_size=2, grouping="batch").item()
    assert logged["cka/pcka_p3"][0] == pytest.approx(wanted, abs=1e-5)


def test_8_a_ratio_as_weight_is_logged_as_the_weight_that_it_amounts_to(tiny, batch):
    term = {"FEATURES": ["p3", "p4"], "LOSS_ARGS": {"grouping": "batch", "patch_size": [2, 1]}}
    model = build_model(tiny("MODEL.PCKA.TERMS", [{**term, "WEIGHT": {"ratio": 0.5}}])).train()
    inputs = batch()
    with EventStorage() as storage:
        for _ in range(2):
            losses = model(inputs)
            sum(losses.values()).backward()
            figures = {k: v.item() for k, v in model.distill.balance_figures.items()}
        logged = storage.latest()
    assert figures.keys() == {f"{k}/pcka_{p}" for k in ("weight", "gradient") for p in ("p3", "p4")}
    assert logged.keys() >= {*figures, "cka/pcka_p3", "cka/pcka_p4"}
    assert not any(name.startswith("share/") for name in logged)
    cka = logged["cka/pcka_p3"][0]
    assert figures["gradient/pcka_p3"] == pytest.approx(0.5 * (1 - cka) ** 0.5, rel=0.3)


def test_8_losses_of_several_methods_add_up(tiny):
    methods = ("Mimic", "PKD", "CWD", "AT", "FeatureCKA", "SP", "RKD")
    terms = [
        {"NAME": name, "FEATURES": ["p3", "p4"], "LOSS": name, "ADAPTER": "conv1x1"}
        for name in methods
    ]
    cfg = tiny("MODEL.PCKA.TERMS", terms)
    os.makedirs(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)  # checks the sizes of the maps
    with EventStorage() as storage:
        losses = trainer.model(next(iter(trainer.data_loader)))
        kinds = {name[:-3] for name in storage.latest() if name.endswith(("_p3", "_p4"))}
    wanted = {f"loss_{name}_{level}" for name in methods for level in ("p3", "p4")}
    assert wanted < set(losses)
    shares = {f"share/{name}" for name in methods}
    assert kinds == {"pearson/PKD", "cka/FeatureCKA"} | shares
    sum(losses.values()).backward()
    adapters = trainer.model.distill.adapters
    # A batch of two images has few relations.
    assert all(adapters[f"{name}_p3"].weight.grad.any() for name in methods[:4])


@pytest.mark.slow
def test_9_evaluation_needs_no_teacher(tiny_yaml, tmp_path, tiny):
    cfg = tiny()
    model = build_model(cfg)
    torch.save({"model": model.student.state_dict()}, tmp_path / "student.pth")
    run = subprocess.run(
        [
            sys.executable,
            ROOT / "tools" / "train_net.py",
            "--config-file",
            tiny_yaml,
            "--eval-only",
            "MODEL.WEIGHTS",
            tmp_path / "student.pth",
            "OUTPUT_DIR",
            tmp_path / "eval",
            "MODEL.PCKA.TEACHER.CONFIG_FILE",
            "gone.yaml",
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "copypaste: AP,AP50,AP75" in run.stdout
    # A run's own folder keeps its config: evaluation writes beside it.
    assert {p.name for p in (tmp_path / "eval").iterdir()} == {"eval"}


@pytest.mark.parametrize("broken", ["student", "teacher"])
def test_10_a_loss_that_is_not_finite_stops_by_name(tiny, batch, broken):
    model = build_model(tiny()).train()
    detector = model.student if broken == "student" else model.teacher.model
    with torch.no_grad():
        detector.backbone.fpn_output4.weight.fill_(float("nan"))
    if broken == "student":  # only the map, not the outputs of the heads
        model.student.forward = lambda inputs: (
            model.student.backbone(model.student.preprocess_image(inputs).tensor) and {}
        )
    with EventStorage(17), pytest.raises(FloatingPointError) as error:
        model(batch())
    assert "iteration 17" in str(error.value) and "'loss_pcka_p4': nan" in str(error.value)
    assert "'loss_pcka_p3': nan" not in str(error.value).split("all losses")[0]


def test_mimic_config_adds_one_term():
    one, two = (
        load_config(str(ROOT / "configs" / f"{name}_faster_rcnn.yaml"))
        for name in ("pcka", "pcka_mimic")
    )
    assert config_differences(one, two) == ["MODEL.PCKA.TERMS", "OUTPUT_DIR"]
    alone, (pcka, mimic) = term_specs(one), term_specs(two)
    assert alone == [pcka] and mimic.loss == "Mimic" and len(mimic.features) == 5


def test_saved_config_builds_the_same_model(tiny, tmp_path):
    cfg = tiny("SOLVER.MAX_ITER", 1)
    train(cfg)
    again = load_config(os.path.join(cfg.OUTPUT_DIR, "config.yaml"))
    assert config_differences(again, cfg) == []
    other = tiny("SOLVER.MAX_ITER", 1, "SEED", 8)
    assert config_differences(again, other) == ["SEED"]
    assert yaml.safe_load(Path(cfg.OUTPUT_DIR, "summary.json").read_text())["iterations"] == 1
    setup_logger()  # detectron2's handlers are global


def test_summary_of_a_run_killed_in_its_last_evaluation(tiny):
    cfg = tiny("SOLVER.MAX_ITER", 1)
    train(cfg)
    summary = Path(cfg.OUTPUT_DIR, "summary.json")
    train(cfg, resume=True)
    seconds = json.loads(summary.read_text())["seconds"]
    assert (
        json.loads(summary.read_text())["first_iteration"] == 0
    )  # the figures of the run are kept
    summary.unlink()
    train(cfg, resume=True)
    again = json.loads(summary.read_text())
    assert again["first_iteration"] == 1 and "bbox" in again["results"]
    assert again["seconds"] != seconds
