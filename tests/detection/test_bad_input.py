"""Mistakes of users, and the messages that they get before training starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

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
        ["MODEL.PCKA.TERMS.pcka.LOSS_ARGS.grouping", "channel",
         "MODEL.PCKA.TERMS.0.LOSS_ARGS.debiased", "True",  # not in the file
         "MODEL.PCKA.TERMS.pcka.WEIGHT", 3],
    )  # fmt: skip
    [spec] = term_specs(cfg)
    wanted = {"grouping": "channel", "patch_size": [4, 2, 1], "debiased": True}
    assert spec.loss_args == wanted and spec.weight == 3.0
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
        (["MODEL.PCKA.TERMS", ["pcka"]], "is a mapping"),
        (["MODEL.PCKA.LOSS_WEIGHT", -2.0], "LOSS_WEIGHT is a number >= 0"),
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
    [("MODEL: [", "not valid YAML"), ("MODEL:\n  BACKBON: {}\n", "did you mean 'BACKBONE'")],
)
def test_broken_config_file(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(str(tmp_path / "c.yaml"))


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
    # Two patches are enough uncentred and too few centred.
    two = {"patch_size": [[4, 2]], "center": True}
    with pytest.raises(ConfigError, match="centred CKA needs 3"):
        Trainer(tiny(*term(LOSS_ARGS=two, FEATURES=["p4"])))
    Trainer(tiny(*term(LOSS_ARGS={**two, "center": False}, FEATURES=["p4"])))


def test_output_folder_of_another_run(tiny):
    cfg = tiny()
    os.makedirs(cfg.OUTPUT_DIR)
    check_run(cfg)  # an empty folder is nobody's
    for name, words in (("student.yaml", "would be overwritten"), ("mine.pth", "holds a run")):
        Path(cfg.OUTPUT_DIR, name).write_text("mine")
        with pytest.raises(ConfigError, match=words):
            check_run(cfg)
        Path(cfg.OUTPUT_DIR, name).unlink()
    Path(cfg.OUTPUT_DIR, "metrics.json").write_text("{}\n")
    with pytest.raises(ConfigError, match="already holds a run: continue it with --resume"):
        check_run(cfg)
    Path(cfg.OUTPUT_DIR, "config.yaml").write_text(cfg.dump())
    Path(cfg.OUTPUT_DIR, "last_checkpoint").write_text("model_0000001.pth")
    check_run(cfg, resume=True)
    check_run(tiny("SOLVER.MAX_ITER", 99), resume=True)  # a longer schedule is the same run
    with pytest.raises(ConfigError, match=r"another model\. Different: MODEL\.FPN\.OUT_CHANNEL"):
        check_run(tiny("MODEL.FPN.OUT_CHANNELS", 9), resume=True)
    check_run(cfg, eval_only=True, resume=True)


def test_a_start_that_failed_can_be_corrected(tiny):
    cfg = tiny()
    os.makedirs(cfg.OUTPUT_DIR)
    for name in ("config.yaml", "student.yaml", "log.txt"):
        Path(cfg.OUTPUT_DIR, name).write_text("left by a run that stopped at once")
    Path(cfg.OUTPUT_DIR, "metrics.json").touch()
    check_run(cfg)


def test_output_folder_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="cannot be written"):
        check_run(tiny("OUTPUT_DIR", str(tmp_path / "file" / "run")))


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
    """The command of the README on a machine without COCO, weights or network."""
    run = subprocess.run(
        [sys.executable, ROOT / "tools" / "train_net.py",
         "--config-file", ROOT / "configs" / "pcka_faster_rcnn.yaml",
         "MODEL.DEVICE", "cpu", "OUTPUT_DIR", tmp_path / "out"],
        capture_output=True, text=True, env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path)},
    )  # fmt: skip
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
