"""Output folders: one run in each, resumed with its own config, data and a complete checkpoint."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detector_runs import train

from pcka.detection import ConfigError
from pcka.detection.checks.preflight import check_run
from pcka.detection.checks.run_folder import is_finished
from pcka.detection.train import main
from pcka.run_lock import LOCK, locked_folder

SCHEDULE = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2)


@pytest.fixture(scope="module")
def finished(tiny_yaml, tmp_path_factory):
    """Return the folder of a run of four iterations, with checkpoints after two and four."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    opts = [str(opt) for opt in (*SCHEDULE, "OUTPUT_DIR", folder)]
    assert main(["--config-file", str(tiny_yaml), *opts]) == 0
    return folder


@pytest.fixture
def stopped(finished, tmp_path):
    """Return the same folder as if the run had been killed after its third iteration."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in ("summary.json", "model_final.pth", "model_0000003.pth"):
        (folder / name).unlink()
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    return folder


def test_unused_folders(tiny):
    cfg = tiny()
    os.makedirs(cfg.OUTPUT_DIR)
    check_run(cfg)  # an empty folder is unused
    for name, words in (("student.yaml", "would be overwritten"), ("mine.pth", "holds a run")):
        Path(cfg.OUTPUT_DIR, name).write_text("mine")
        with pytest.raises(ConfigError, match=words):
            check_run(cfg)
        Path(cfg.OUTPUT_DIR, name).unlink()
    Path(cfg.OUTPUT_DIR, "metrics.json").write_text("{}\n")
    with pytest.raises(ConfigError, match="already holds a run: continue it with --resume"):
        check_run(cfg)


def test_a_start_that_failed_can_be_corrected(tiny):
    cfg = tiny()
    os.makedirs(cfg.OUTPUT_DIR)
    for name in ("config.yaml", "student.yaml", "log.txt"):
        Path(cfg.OUTPUT_DIR, name).write_text("left by a run that stopped at once")
    Path(cfg.OUTPUT_DIR, "metrics.json").touch()
    check_run(cfg)


def test_folders_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    os.symlink("/nonexistent/folder", tmp_path / "dangling")
    for folder in ("file", "file/run", "dangling"):
        with pytest.raises(ConfigError, match="cannot be written"):
            check_run(tiny("OUTPUT_DIR", str(tmp_path / folder)))


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["SEED", 8], r"another config\. Different: SEED \(was 7, is 8\)"),
        (["SOLVER.BASE_LR", 0.02], r"BASE_LR \(was 0\.01, is 0\.02\)"),
        (["SOLVER.IMS_PER_BATCH", 1], "IMS_PER_BATCH"),
        (["INPUT.MIN_SIZE_TRAIN", (48,)], "MIN_SIZE_TRAIN"),
        (["MODEL.FPN.OUT_CHANNELS", 9], r"FPN\.OUT_CHANNELS \(was 8, is 9\)"),
        (["MODEL.PCKA.LOSS_WEIGHT", 0.0], "LOSS_WEIGHT"),
        (["SOLVER.MAX_ITER", 1], "it has done 2 iterations, and SOLVER.MAX_ITER is 1"),
    ],
)
def test_resume_with_something_else(tiny, stopped, opts, words):
    with pytest.raises(ConfigError, match=words):
        check_run(tiny(*SCHEDULE, "OUTPUT_DIR", str(stopped), *opts), resume=True)


@pytest.mark.parametrize(
    "opts",
    [
        ["SOLVER.MAX_ITER", 99],  # a longer schedule is the same run
        ["DATALOADER.NUM_WORKERS", 2],
        ["MODEL.WEIGHTS", "", "TEST.EVAL_PERIOD", 3, "SOLVER.CHECKPOINT_PERIOD", 1],
        ["MODEL.PCKA.GRADIENT_PERIOD", 5, "SOLVER.AMP.ENABLED", True],
    ],
)
def test_resume_with_what_may_change(tiny, stopped, opts):
    check_run(tiny(*SCHEDULE, "OUTPUT_DIR", str(stopped), *opts), resume=True)


def test_resume_with_other_data(tiny, coco, stopped, tmp_path):
    shutil.copytree(coco, tmp_path / "moved")
    content = json.loads((coco / "instances.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 9]
    content["images"].pop()
    (tmp_path / "moved" / "fewer.json").write_text(json.dumps(content))
    cfg = tiny(*SCHEDULE, "OUTPUT_DIR", str(stopped))
    entry = {"NAME": "fewer", "JSON": "fewer.json", "IMAGES": "images"}
    opts = ["DATASETS.COCO_ROOT", str(tmp_path / "moved"), "DATASETS.COCO_JSON", [entry]]
    cfg = tiny(*SCHEDULE, "OUTPUT_DIR", str(stopped), *opts, "DATASETS.TRAIN", ("fewer",))
    with pytest.raises(ConfigError, match=r"9 images then, 8 now"):
        train(cfg, resume=True)


def flipped(path):
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 255 for byte in data[middle : middle + 64])
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda f: (f / "last_checkpoint").write_bytes(b""),
            "last_checkpoint is missing or not readable",
        ),
        (lambda f: (f / "last_checkpoint").write_bytes(b"\xff\xfe"), "is missing or not readable"),
        (lambda f: (f / "last_checkpoint").unlink(), "is missing or not readable"),
        (lambda f: (f / "last_checkpoint").write_text("/etc/passwd"), "names '/etc/passwd'"),
        (lambda f: (f / "model_0000003.pth").unlink(), "'model_0000003.pth', which is missing or"),
        (lambda f: (f / "model_0000003.pth").write_bytes(b""), "not whole"),
        (
            lambda f: (f / "model_0000003.pth").write_bytes(
                (f / "model_0000003.pth").read_bytes()[:5000]
            ),
            "not whole",
        ),
        (lambda f: flipped(f / "model_0000003.pth"), "not whole"),
    ],
)
def test_damaged_checkpoints(tiny, stopped, damage, words):
    """The message names the newest complete checkpoint, from which the run then continues."""
    shutil.copy(stopped / "model_0000001.pth", stopped / "model_0000003.pth")
    os.utime(stopped / "model_0000001.pth", (1, 1))
    (stopped / "last_checkpoint").write_text("model_0000003.pth")
    damage(stopped)
    cfg = tiny(*SCHEDULE, "OUTPUT_DIR", str(stopped))
    with pytest.raises(ConfigError, match=words) as error:
        check_run(cfg, resume=True)
    newest = next(
        n
        for n in ("model_0000003.pth", "model_0000001.pth")
        if f"newest whole checkpoint is {n}" in str(error.value)
    )
    (stopped / "last_checkpoint").write_text(newest)
    check_run(cfg, resume=True)
    (stopped / "last_checkpoint").unlink()
    with pytest.raises(ConfigError, match="cannot resume"):
        check_run(cfg, eval_only=True, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("trainer"),
        lambda content: content.pop("model"),
        lambda content: content.update(trainer=None),
        lambda content: content.update(model="x"),
        lambda content: content.update(iteration="x"),
        lambda content: content.update(iteration=None),
        lambda content: content.update(iteration=-5),
        lambda content: torch.zeros(1),
        lambda content: 3,
    ],
)
def test_a_checkpoint_of_something_else(tiny, stopped, change):
    content = torch.load(stopped / "model_0000001.pth", weights_only=True)
    other = change(content)
    torch.save(other if type(other) in (torch.Tensor, int) else content, stopped / "x.pth")
    (stopped / "x.pth").replace(stopped / "model_0000001.pth")
    with pytest.raises(ConfigError, match=r"model_0000001\.pth is no checkpoint of a run"):
        check_run(tiny(*SCHEDULE, "OUTPUT_DIR", str(stopped)), resume=True)


def test_no_checkpoint_is_left(tiny, stopped):
    (stopped / "model_0000001.pth").write_text("x")
    with pytest.raises(ConfigError, match="no whole checkpoint is left"):
        check_run(tiny(*SCHEDULE, "OUTPUT_DIR", str(stopped)), resume=True)


def test_a_run_without_its_config(tiny, stopped):
    (stopped / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"config\.yaml is missing or empty"):
        check_run(tiny(*SCHEDULE, "OUTPUT_DIR", str(stopped)), resume=True)
    (stopped / "config.yaml").write_text("MODEL: [")
    with pytest.raises(ConfigError, match=r"cannot resume .*config\.yaml is damaged"):
        check_run(tiny(*SCHEDULE, "OUTPUT_DIR", str(stopped)), resume=True)


def test_a_name_that_no_folder_can_have(tiny):
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR .* holds the character"):
        check_run(tiny("OUTPUT_DIR", "a\0b"))


def test_a_finished_run_is_not_rewritten(tiny, tiny_yaml, finished, capsys):
    before = {p.name: p.stat().st_mtime_ns for p in finished.iterdir()}
    opts = [str(opt) for opt in (*SCHEDULE, "OUTPUT_DIR", finished)]
    assert main(["--config-file", str(tiny_yaml), "--resume", *opts]) == 0
    assert "is finished" in capsys.readouterr().out
    assert {p.name: p.stat().st_mtime_ns for p in finished.iterdir()} == before
    assert main(["--config-file", str(tiny_yaml), *opts]) == 2
    assert not is_finished(tiny("OUTPUT_DIR", str(finished), "SOLVER.MAX_ITER", 5))


def test_two_runs_in_one_folder(tiny_yaml, tmp_path, capsys):
    """The second run stops at any time that it starts, and the lock ends with its process."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pcka.run_lock import locked_folder\n"
            "with locked_folder(sys.argv[1]): print('locked', flush=True); time.sleep(60)",
            tmp_path / "run",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "locked\n"
    command = [
        "--config-file",
        str(tiny_yaml),
        "SOLVER.MAX_ITER",
        "1",
        "DATASETS.TEST",
        "()",
        "OUTPUT_DIR",
        str(tmp_path / "run"),
    ]
    assert main(command) == 2
    assert f"process {holder.pid} on " in capsys.readouterr().err
    assert {p.name for p in (tmp_path / "run").iterdir()} == {LOCK}
    holder.kill()
    holder.wait()
    assert main(command) == 0
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_lock_is_for_one_folder_and_leaves_nothing(tmp_path):
    with locked_folder(tmp_path / "a"), locked_folder(tmp_path / "b"):
        assert (tmp_path / "a" / LOCK).is_file()
    assert not any((tmp_path / "a").iterdir())


def test_checkpoints_hold_tensors_of_the_cpu(finished):
    content = torch.load(finished / "model_final.pth")
    assert {value.device.type for value in content["model"].values()} == {"cpu"}
