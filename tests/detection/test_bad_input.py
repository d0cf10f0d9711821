"""Mistakes of users, and the messages that they get before training starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import BACKBONE_REGISTRY

from pcka.detection import ConfigError, build_teacher, load_config
from pcka.detection.checks.preflight import check_run
from pcka.detection.config_terms import term_specs
from pcka.detection.engine.trainer import Trainer

ROOT = Path(__file__).parents[2]


def term(**changes):
    return ["MODEL.PCKA.TERMS", [{"FEATURES": ["p3"], "LOSS_ARGS": {"patch_size": 2}, **changes}]]


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL.PCKA.TEMRS", []], r"unknown key 'TEMRS', did you mean 'TERMS'.*LOSS_WEIGHT"),
        (["MODEL.PKCA.TERMS", []], "unknown key 'PKCA', did you mean 'PCKA'"),
        (["MODEL.PCKA.LOSS_WEIGHT", "much"], "LOSS_WEIGHT"),
        (["SEED"], "odd length"),
        (["SEED", "x"], "SEED is a whole number, got 'x'"),
        (["MODEL", "1"], "MODEL is a mapping of keys, got '1'"),
        (["MODEL.DEVICE.x", "1"], "MODEL.DEVICE.x: 'cpu' holds no keys"),
        (["OUTPUT_DIR", "None"], "OUTPUT_DIR is text, got 'None'"),
        (["MODEL.PCKA.TERMS.pkca.WEIGHT", "2"], "no entry 'pkca', did you mean 'pcka'"),
        (["MODEL.PCKA.TERMS.1.WEIGHT", "2"], "no entry '1'. Known: pcka"),
        (["MODEL.PCKA.TERMS.pcka.NAME.x", "2"], "TERMS.pcka.NAME is 'pcka' and holds no keys"),
    ],
)
def test_keys_on_the_command_line(tiny_yaml, opts, words):
    with pytest.raises(ConfigError, match=words):
        load_config(str(tiny_yaml), opts)


def test_keys_of_a_term_by_its_name_or_number(tiny_yaml):
    cfg = load_config(
        str(tiny_yaml),
        [
            "MODEL.PCKA.TERMS.pcka.LOSS_ARGS.grouping",
            "channel",
            "MODEL.PCKA.TERMS.0.LOSS_ARGS.debiased",
            "True",  # not in the file
            "MODEL.PCKA.TERMS.pcka.WEIGHT",
            3,
        ],
    )
    [spec] = term_specs(cfg)
    wanted = {"grouping": "channel", "patch_size": [4, 2, 1], "debiased": True}
    assert spec.loss_args == wanted and spec.weight == 3.0
    for text in ("{ratio: 0.5}", "{'ratio': 0.5}", {"ratio": 0.5}):
        cfg = load_config(str(tiny_yaml), ["MODEL.PCKA.TERMS.pcka.WEIGHT", text])
        assert term_specs(cfg)[0].weight == {"ratio": 0.5}
    given = [{"NAME": "a", "FEATURES": ["p2"], "WEIGHT": 1.0}]
    cfg = load_config(str(tiny_yaml), ["MODEL.PCKA.TERMS", given, "MODEL.PCKA.TERMS.a.WEIGHT", 2])
    assert cfg.MODEL.PCKA.TERMS[0]["WEIGHT"] == 2 and given[0]["WEIGHT"] == 1.0


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL.PCKA.TERMS.pcka.WEIHT", 2], r"TERMS\[0\]: unknown key 'WEIHT', did you mean"),
        (term(GROPING="batch"), r"TERMS\[0\]: unknown key 'GROPING'. Known: NAME, FEATURES"),
        (term(LOSS="PachCKA"), "unknown loss 'PachCKA': one of .*Mimic, PKD, PatchCKA"),
        (term(LOSS="KD", LOSS_ARGS={}), "KD relates logits; the features of a detector are maps"),
        (term(LOSS_ARGS={"groping": "batch"}), "groping"),
        (term(LOSS_ARGS={"grouping": "row"}), "channel, batch, position"),
        (term(WEIGHT="heavy"), "WEIGHT"),
        (term(WEIGHT=-1), "not negative"),
        (term(WEIGHT={"ratio": -1}), "ratio is finite and not negative"),
        (term(WEIGHT={"ratio": "big"}), "ratio is a number, got 'big'"),
        (term(WEIGHT={"share": 1}), r"weight is a number or \{ratio: number\}"),
        (["MODEL.PCKA.TERMS.pcka.WEIGHT", "{ratio: "], "WEIGHT"),
        (["MODEL.PCKA.TERMS", ["pcka"]], "is a mapping"),
        (["MODEL.PCKA.LOSS_WEIGHT", -2.0], "LOSS_WEIGHT is 0 or more"),
    ],
)
def test_terms(tiny, opts, words):
    with pytest.raises(ConfigError, match=words):
        check_run(tiny(*opts))


def test_whole_numbers_are_weights_too(tiny):
    assert tiny("MODEL.PCKA.LOSS_WEIGHT", "0").MODEL.PCKA.LOSS_WEIGHT == 0.0
    check_run(tiny(*term(WEIGHT=10)))


def test_config_that_runs_code(tmp_path):
    mark = tmp_path / "ran"
    payload = f'X: !!python/object/apply:os.mkdir ["{mark}"]\n'
    (tmp_path / "evil.yaml").write_text(payload)
    (tmp_path / "child.yaml").write_text("_BASE_: evil.yaml\nSEED: 1\n")
    for name in ("evil.yaml", "child.yaml"):
        with pytest.raises(ConfigError, match="run Python code"):
            load_config(str(tmp_path / name))
    assert not mark.exists()


def test_detectron2s_own_tags_are_still_read():
    from detectron2 import model_zoo

    cfg = load_config(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml"))
    assert len(cfg.MODEL.ANCHOR_GENERATOR.SIZES) == 5
    assert len(cfg.MODEL.ANCHOR_GENERATOR.SIZES[0]) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MODEL: [", "not valid YAML"),
        ("MODEL:\n  BACKBON: {}\n", "did you mean 'BACKBONE'"),
        ("MODEL:\n", "MODEL is a mapping of keys, got None"),
        ("SOLVER: [1]\n", r"SOLVER is a mapping of keys, got \[1\]"),
        ("OUTPUT_DIR:\n", "OUTPUT_DIR is text, got None"),
        ("MODEL: {WEIGHTS: null}\n", "MODEL.WEIGHTS is text, got None"),
        ("MODEL: {PCKA: {TERMS: null}}\n", "MODEL.PCKA.TERMS is a list, got None"),
        ("DATASETS: {TRAIN: cells}\n", "DATASETS.TRAIN is a list, got 'cells'"),
        ("SOLVER: {MAX_ITER: 1e3}\n", "SOLVER.MAX_ITER is a whole number, got 1000.0"),
        ("SEED: true\n", "SEED is a whole number, got True"),
        ("OUTPUT_DIR: 2024-01-01\n", "OUTPUT_DIR is text, got .*: quote it"),
    ],
)
def test_broken_config_file(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(str(tmp_path / "c.yaml"))


def test_keys_without_a_value_stay_as_they_are(tmp_path):
    (tmp_path / "c.yaml").write_text("SOLVER: {WEIGHT_DECAY_BIAS: null, BASE_LR: 1}\n")
    cfg = load_config(str(tmp_path / "c.yaml"), ["SOLVER.GAMMA", "2", "SOLVER.STEPS", "[1, 2]"])
    assert cfg.SOLVER.WEIGHT_DECAY_BIAS is None
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA, cfg.SOLVER.STEPS) == (1.0, 2.0, (1, 2))


def test_missing_config_file():
    with pytest.raises(ConfigError, match=r"'nowhere\.yaml' does not exist"):
        load_config("nowhere.yaml")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("CONFIG_FILE", "", "CONFIG_FILE is empty.*LOSS_WEIGHT 0"),
        (
            "CONFIG_FILE",
            "no/such.yaml",
            "neither a file here.*nor a name of detectron2's model zoo",
        ),
        ("WEIGHTS", "no/such.pth", "teacher's weights.*no file 'no/such.pth'"),
        ("OPTS", ["MODEL.NOTHING", 1], "unknown key 'NOTHING'"),
    ],
)
def test_teacher_not_found(tiny, key, value, words):
    cfg = tiny(f"MODEL.PCKA.TEACHER.{key}", value)
    with pytest.raises(ConfigError, match=words):
        check_run(cfg)
    with pytest.raises(ConfigError, match=words):
        build_teacher(cfg)


def test_teacher_file_that_is_no_checkpoint(tiny, tmp_path):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ConfigError, match=r"teacher's weights .*: cannot read .*text\.pth"):
        build_teacher(tiny("MODEL.PCKA.TEACHER.WEIGHTS", str(tmp_path / "text.pth")))


def test_student_meta_architecture(tiny):
    with pytest.raises(ConfigError, match=r"'FasterRCNN' is not registered: one of .*GeneralizedR"):
        check_run(tiny("MODEL.PCKA.STUDENT_META_ARCHITECTURE", "FasterRCNN"))


def test_map_smaller_than_its_patches(tiny):
    cfg = tiny(*term(LOSS_ARGS={"patch_size": [8]}, FEATURES=["p4"]))
    os.makedirs(cfg.OUTPUT_DIR)
    with pytest.raises(ConfigError, match=r"pcka_p4: an image of 64x64 .*1 patch.*smaller patch"):
        Trainer(cfg)
    # Two patches are enough without centring and too few with it.
    two = {"patch_size": [[4, 2]], "center": True}
    with pytest.raises(ConfigError, match="centred CKA needs 3"):
        Trainer(tiny(*term(LOSS_ARGS=two, FEATURES=["p4"])))
    Trainer(tiny(*term(LOSS_ARGS={**two, "center": False}, FEATURES=["p4"])))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("SOLVER.MAX_ITER", 0, "MAX_ITER is 1 or more, got 0"),
        ("SOLVER.CHECKPOINT_PERIOD", 0, "CHECKPOINT_PERIOD is 1 or more"),
        ("SOLVER.BASE_LR", float("nan"), "BASE_LR is finite and in the range .*, got nan"),
        ("SOLVER.BASE_LR", -1.0, "BASE_LR is 0 or more"),
        ("SOLVER.STEPS", (9, 1), r"STEPS is iterations in ascending order, got \(9, 1\)"),
        ("SOLVER.LR_SCHEDULER_NAME", "Nope", "LR_SCHEDULER_NAME is one of 'WarmupMultiStepLR'"),
        ("SOLVER.MOMENTUM", 5.0, "MOMENTUM is from 0 up and below 1"),
        ("INPUT.MIN_SIZE_TRAIN", (), "MIN_SIZE_TRAIN is one size in pixels or more"),
        ("INPUT.MIN_SIZE_TRAIN", (-5,), "MIN_SIZE_TRAIN is one size in pixels or more"),
        ("INPUT.FORMAT", "XYZ", "INPUT.FORMAT is one of 'BGR'"),
        ("DATALOADER.NUM_WORKERS", -1, "NUM_WORKERS is from 0 to 4096"),
        ("DATALOADER.NUM_WORKERS", 10**12, "NUM_WORKERS is from 0 to 4096"),
        ("SOLVER.WEIGHT_DECAY", 1e300, "WEIGHT_DECAY is finite and in the range of float32"),
        ("MODEL.RPN.LOSS_WEIGHT", float("inf"), "RPN.LOSS_WEIGHT is finite"),
        ("MODEL.RPN.NMS_THRESH", 1.5, "RPN.NMS_THRESH is from 0 to 1"),
        ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", -1, "RPN.BATCH_SIZE_PER_IMAGE is 1 or more"),
        ("MODEL.RPN.POST_NMS_TOPK_TEST", 0, "RPN.POST_NMS_TOPK_TEST is 1 or more"),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "l1", "BBOX_REG_LOSS_TYPE is one of 'smooth_l1'"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", ("x",), "BBOX_REG_WEIGHTS is four numbers"),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", [[]], "BBOX_REG_WEIGHTS is four numbers"),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", [1, 1, 1, 2**70], "in the range of 64-bit"),
        ("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS", [1.0], "for each stage"),
        ("MODEL.ROI_HEADS.POSITIVE_FRACTION", float("nan"), "POSITIVE_FRACTION is finite"),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.5, "SCORE_THRESH_TEST is below 1"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[-1]], "SIZES is lists of numbers above 0"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[8], []], "SIZES is lists of numbers above 0"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[1e-300]], "SIZES is lists of numbers above 0"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[8, [[]]]], "SIZES is lists of numbers above 0"),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[]], "RATIOS is lists of numbers above 0"),
        ("MODEL.FCOS.PRIOR_PROB", 0.0, "FCOS.PRIOR_PROB is between 0 and 1"),
        ("TEST.DETECTIONS_PER_IMAGE", 0, "DETECTIONS_PER_IMAGE is 1 or more"),
        ("TEST.EXPECTED_RESULTS", ["x"], "EXPECTED_RESULTS is a list of"),
        ("MODEL.FPN.IN_FEATURES", [], "IN_FEATURES is empty"),
        ("SEED", 2**32, r"SEED is below 2\*\*32"),
        ("OUTPUT_DIR", "", "OUTPUT_DIR is a folder"),
        ("MODEL.DEVICE", "gpu", "DEVICE is cpu, cuda, .*, got 'gpu'"),
        ("MODEL.DEVICE", "meta", "DEVICE is cpu, cuda"),
        ("MODEL.PIXEL_STD", [0.0, 1.0, 1.0], "PIXEL_STD divides"),
        ("MODEL.PIXEL_MEAN", [1.0], "PIXEL_MEAN is 3 finite number"),
        ("MODEL.BACKBONE.NAME", "build_resnet_fpn_bakbone", "did you mean 'build_resnet_fpn_b"),
        ("MODEL.FPN.NORM", "XX", "FPN.NORM is one of"),
        ("MODEL.FPN.OUT_CHANNELS", 0, "OUT_CHANNELS is 1 or more"),
        ("MODEL.FPN.IN_FEATURES", ["res9"], r"IN_FEATURES \['res9'\] are not among"),
        ("MODEL.PCKA.PICTURE_PERIOD", -5, "PICTURE_PERIOD is 0 or more"),
        ("TEST.AUG.ENABLED", True, "test-time augmentation is not evaluated here"),
    ],
)
def test_values_out_of_range(tiny, key, value, words):
    with pytest.raises(ConfigError, match=words):
        check_run(tiny(key, value))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.RPN.IN_FEATURES", ["p9"], r"student .* cannot be built: KeyError: 'p9' .*rpn\.py"),
        ("MODEL.ROI_HEADS.NAME", "Nope", "No object named 'Nope' found in 'ROI_HEADS'"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16]], "AssertionError: Got sizes of length 2"),
        ("DATALOADER.SAMPLER_TRAIN", "Nope", "data cannot be loaded: .*Unknown training sampler"),
    ],
)
def test_what_detectron2_refuses_is_one_line(tiny, key, value, words):
    with pytest.raises(ConfigError, match=words) as error:
        Trainer(tiny(key, value))
    assert "\n" not in str(error.value)


def test_errors_of_other_code_keep_their_traceback(tiny):
    @BACKBONE_REGISTRY.register()
    def build_broken_backbone(cfg, input_shape):
        return torch.nn.Linear(2, 3)(torch.ones(5))

    try:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            Trainer(tiny("MODEL.BACKBONE.NAME", "build_broken_backbone"))
    finally:
        BACKBONE_REGISTRY._obj_map.pop("build_broken_backbone")


def test_home_folder_in_paths(monkeypatch, tiny_yaml):
    monkeypatch.setenv("HOME", "/somebody")
    cfg = load_config(str(tiny_yaml), ["OUTPUT_DIR", "~/run", "MODEL.WEIGHTS", "~/a.pth"])
    assert (cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS) == ("/somebody/run", "/somebody/a.pth")


def test_a_student_of_a_lazy_config():
    with pytest.raises(ConfigError, match=r"s\.py is a LazyConfig, .*configured by YAML"):
        load_config("s.py")


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (
            [
                "DATALOADER.SAMPLER_TRAIN",
                "RepeatFactorTrainingSampler",
                "DATALOADER.REPEAT_THRESHOLD",
                0.5,
            ],
            r"an image of 64x64 pixels, 32x32 in",
        ),
        (["INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.3, 0.3]], "cropped to 19x19, 32x32"),
        (
            [
                "INPUT.CROP.ENABLED",
                True,
                "INPUT.CROP.TYPE",
                "absolute",
                "INPUT.CROP.SIZE",
                [20, 30],
            ],
            "cropped to 20x30, 32x64",
        ),
    ],
)
def test_small_maps_with_other_samplers_and_crops(tiny, opts, words):
    small = ("INPUT.MIN_SIZE_TRAIN", (32,), "MODEL.PCKA.TERMS.pcka.LOSS_ARGS.patch_size", [8, 2, 1])
    cfg = tiny(*small, *opts)
    os.makedirs(cfg.OUTPUT_DIR)
    with pytest.raises(ConfigError, match=words):
        Trainer(cfg)


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["MODEL.PCKA.STUDENT_META_ARCHITECTURE", "PanopticFPN"], "learns semantic segmentation"),
        (["MODEL.KEYPOINT_ON", True], "takes the names of the keypoints"),
    ],
)
def test_tasks_that_the_data_do_not_hold(tiny, opts, words):
    with pytest.raises(ConfigError, match=words):
        check_run(tiny(*opts))


def test_terms_that_no_architecture_would_read(tiny):
    with pytest.raises(ConfigError, match="which knows no teacher: set it to 'DistilledDetector'"):
        check_run(tiny("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"))


def test_evaluation_of_nothing(tiny):
    with pytest.raises(ConfigError, match="would measure random ones"):
        check_run(tiny(), eval_only=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_no_gpu(tiny):
    with pytest.raises(ConfigError, match=r"set MODEL\.DEVICE cpu"):
        check_run(tiny("MODEL.DEVICE", "cuda"))


@pytest.mark.slow
def test_coco_recipe_without_coco_stops_at_once(tmp_path):
    """The command of the README stops on a machine without COCO, weights or network."""
    run = subprocess.run(
        [
            sys.executable,
            ROOT / "tools" / "train_net.py",
            "--config-file",
            ROOT / "configs" / "pcka_faster_rcnn.yaml",
            "MODEL.DEVICE",
            "cpu",
            "OUTPUT_DIR",
            tmp_path / "out",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path)},
    )
    assert run.returncode == 2
    for words in (
        f"no {tmp_path}/coco/annotations/instances_train2017.json",
        "https://cocodataset.org/#download",
        "DETECTRON2_DATASETS",
        "R-50.pkl",
        "faster_rcnn_R_101_FPN_3x",
        "make demo",
    ):
        assert words in run.stderr, run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out").exists()


def test_every_config_is_valid():
    configs = [*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/*/*.yaml")]
    assert len(configs) >= 5
    for path in configs:
        content = yaml.safe_load(path.read_text())
        if not content.keys() & {"STUDENTS", "SETTINGS"}:
            term_specs(load_config(str(path)))
