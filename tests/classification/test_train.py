"""The command: the files of a run, and the mistakes that stop it before it starts."""

import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import classifier_runs
import pytest
import torch
import yaml
from classifier_runs import CPU, TERMS, add_tiny_models, config_file, make_config, save_teacher

from pcka import files
from pcka.classification import records
from pcka.classification.checkpoints import load_weights
from pcka.classification.config import load_config
from pcka.classification.engine import Engine
from pcka.classification.models import create_model
from pcka.classification.train import evaluate_student, main, train
from pcka.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    add_tiny_models(monkeypatch)


@pytest.fixture
def command(tmp_path, capsys):
    """Return ``command(*arguments)``, which runs a small config and returns the exit status."""
    file = config_file(tmp_path / "a.yaml", {"output_dir": str(tmp_path / "run")})
    return lambda *arguments: main(["--config-file", str(file), *map(str, arguments)])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_a_run_leaves(command, tmp_path):
    assert command("train.ema_decay", 0.5) == 0
    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.pth",
        "config.yaml",
        "data.json",
        "environment.json",
        "metrics.csv",
        "student.pth",
        "student_best.pth",
        "student_ema.pth",
        "summary.json",
        "tensorboard",
    ]
    cfg = load_config([folder / "config.yaml"])
    assert cfg.train.ema_decay == 0.5 and cfg.data.mean == (0.3053,) * 3
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    assert header == "epoch,lr,loss_ce,top1,top5,ema_top1,ema_top5,images_per_second"
    assert [row.split(",")[:2] for row in rows] == [["1", "0.05"], ["2", "0.005000000000000001"]]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["last"].keys() == {"epoch", "top1", "top5", "ema_top1", "ema_top5"}
    top1 = [float(row.split(",")[3]) for row in rows]
    assert (summary["last"]["epoch"], summary["last"]["top1"]) == (2, top1[1])
    assert summary["best"]["top1"] == max(top1)
    assert (summary["seed"], summary["epochs"], summary["device"]) == (1, 2, "cpu")
    assert summary["parameters"] == sum(p.numel() for p in create_model("tiny", 10).parameters())
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and environment["threads"] == 1
    assert environment["device"] and "git" in environment
    for name in ("student.pth", "student_best.pth", "student_ema.pth", "checkpoint.pth"):
        load_weights(create_model("tiny", 10), folder / name)


def test_a_folder_that_holds_a_run_is_refused(command, tmp_path, capsys):
    assert command() == 0
    before = contents(tmp_path / "run")
    assert command() == 2
    assert "holds a run: continue it with --resume, or name another" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before


def test_a_folder_that_holds_something_else_is_refused(command, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml.part").touch()  # of a run killed at its very start
    assert command("train.epochs", 1, "train.milestones", "[]") == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    assert command("output_dir", tmp_path / "other", "--resume") == 2
    assert "holds something else" in capsys.readouterr().err


def test_a_finished_run_is_taken_as_it_is(command, tmp_path, monkeypatch, caplog):
    assert command() == 0
    before = contents(tmp_path / "run")
    monkeypatch.setattr(Engine, "__init__", None)
    caplog.set_level(logging.INFO)
    assert command("--resume", "data.workers", 1) == 0
    assert contents(tmp_path / "run") == before
    assert "is finished: last top-1" in caplog.text


def test_another_config_is_refused_with_its_keys(command, tmp_path, capsys):
    assert command() == 0
    assert command("--resume", "train.lr", 0.1, "seed", 3, "train.log_every", 7) == 2
    error = capsys.readouterr().err
    assert "(different: seed (was 1, is 3), train.lr (was 0.05, is 0.1)): set these back" in error


def test_refused_before_anything_is_written(command, tmp_path, capsys):
    teacher = save_teacher(tmp_path / "t.pth")
    opts = ["teacher", json.dumps({**teacher, "min_accuracy": None})]
    opts += ["terms", json.dumps([TERMS["kd"]])]
    assert command(*opts) == 2
    assert "less than 15.13 (always the most frequent class: 10.13)" in capsys.readouterr().err
    # The run has the same teacher if requested, and a batch size that leaves one image.
    opts += ["teacher.min_accuracy", 0, "terms", json.dumps([TERMS["intra"]])]
    assert command(*opts, "train.batch_size", 36) == 2
    error = capsys.readouterr().err
    assert "batch_size 36 leaves the last batch of an epoch of 145 images with 1" in error
    assert "Take another train.batch_size" in error
    assert command("train.epochs", 0) == command("stdent.name", "tiny") == 2
    assert "did you mean student" in capsys.readouterr().err
    assert not any((tmp_path / "run").iterdir())


def test_a_loss_that_is_not_finite(command, capsys):
    assert command("train.lr", "1e30") == 1
    assert "not finite by step" in (error := capsys.readouterr().err) and "loss_ce" in error


def test_interrupted_by_the_keyboard_and_resumed(command, tmp_path, monkeypatch, capsys):
    step = Engine._step

    def interrupted(self, *args):
        if self.step == 7:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_step", interrupted)
        assert command() == 130
    assert "--resume continues this run" in capsys.readouterr().err
    state = torch.load(tmp_path / "run" / "checkpoint.pth", weights_only=True)
    assert state["step"] == 5 and not (tmp_path / "run" / "summary.json").exists()
    assert command("--resume") == 0
    assert records.read_summary(tmp_path / "run")["last"]["epoch"] == 2


def test_resume_where_nothing_is_yet(command, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert command("--resume") == 0
    assert "no checkpoint yet: starting from the beginning" in caplog.text


def test_eval_only_needs_no_teacher(command, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    term = ["terms", json.dumps([TERMS["kd"]]), "teacher", "{name: resnet8, weights: nowhere.pth}"]
    assert command("--eval-only", *term) == 2
    assert "no weights to evaluate" in (error := capsys.readouterr().err)
    assert "run/student.pth: set student.weights" in error
    assert command() == 0
    before = contents(tmp_path / "run")
    summary = records.read_summary(tmp_path / "run")
    assert command("--eval-only", *term) == 0
    assert f"tiny: top-1 {summary['last']['top1']:.2f}, top-5" in caplog.text
    assert contents(tmp_path / "run") == before
    cfg = make_config(tmp_path / "x", {}, "student.weights", str(tmp_path / "run/checkpoint.pth"))
    assert evaluate_student(cfg, CPU).top1 == summary["last"]["top1"]


def test_eval_only_of_an_unknown_model(command, tmp_path, capsys):
    save_teacher(tmp_path / "t.pth")
    assert command("--eval-only", "student.name", "tny", "student.weights", tmp_path / "t.pth") == 2
    assert "student.name: unknown model 'tny'" in capsys.readouterr().err


def test_the_log_names_last_and_best(command, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    finish = Engine._finish

    def with_history(self):
        self.history[0].update(top1=41.256, top5=90.0)
        self.history[1].update(top1=40.0, top5=91.0)
        return finish(self)

    monkeypatch.setattr(Engine, "_finish", with_history)
    assert command() == 0
    assert "last top-1 40.00 (epoch 2), best 41.26 (epoch 1)" in caplog.text
    pattern = r"epoch 2 of 2: loss \d\.\d{3}, top-1 \d+\.\d\d, top-5 \d+\.\d\d, \d+ images/s"
    assert any(re.search(pattern, line) for line in caplog.messages)
    ema = {"last": {"top1": 40.0, "epoch": 2, "ema_top1": 42.5}, "best": {"top1": 41.0, "epoch": 1}}
    assert records.result_line(ema) == (
        "last top-1 40.00 (epoch 2), its moving average 42.50, best 41.00 (epoch 1)"
    )


def test_a_student_starts_from_weights(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    start = save_teacher(tmp_path / "t.pth", "tiny")["weights"]
    cfg = make_config(tmp_path / "run", {}, "student.weights", start, "train.lr", "1e-12")
    train(cfg, CPU)
    trained, given = (
        torch.load(p, weights_only=True)["model"]["fc.weight"]
        for p in (tmp_path / "run" / "student.pth", start)
    )
    torch.testing.assert_close(trained, given)
    assert "student: " in caplog.text


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    with pytest.raises(RuntimeError), files.replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.slow
def test_the_program_killed_and_resumed(tmp_path):
    """The program is killed from outside by SIGKILL, then called again with --resume."""
    tree = {"train": {"epochs": 60, "milestones": [50], "checkpoint_every": 3}}
    folders = tmp_path / "killed", tmp_path / "whole"
    files = [
        config_file(tmp_path / f"{folder.name}.yaml", {"output_dir": str(folder), **tree})
        for folder in folders
    ]
    program = [sys.executable, classifier_runs.__file__, "--config-file"]
    options = {
        "cwd": ROOT,
        "env": {"PYTHONPATH": f"{ROOT / 'projects'}:{ROOT}", "PATH": "/usr/bin"},
    }
    run = subprocess.Popen([*program, files[0]], stdout=subprocess.PIPE, text=True, **options)
    for line in run.stdout:
        if "epoch 5 of 60" in line:
            run.kill()
            break
    run.stdout.close()
    assert run.wait() == -signal.SIGKILL
    step = torch.load(folders[0] / "checkpoint.pth", weights_only=True)["step"]
    assert 15 <= step < 300
    done = subprocess.run(
        [*program, files[0], "--resume"], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stderr
    assert f"300 steps, from step {step}" in done.stdout
    train(load_config([files[1]]), CPU)
    states = [torch.load(folder / "student.pth", weights_only=True)["model"] for folder in folders]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    saved = yaml.safe_load((folders[0] / "config.yaml").read_text())
    assert saved["student"]["name"] == "tiny"


def test_config_of_a_run_that_is_damaged(command, tmp_path):
    assert command() == 0
    (tmp_path / "run" / "config.yaml").write_text("train: [")
    with pytest.raises(ConfigError, match=r"config\.yaml is damaged.*not valid YAML"):
        train(make_config(tmp_path / "run"), CPU, resume=True)


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    words = rf"{os.strerror(errno.ENOSPC)}.*a\.json"
    with pytest.raises(OSError, match=words), files.replacing(path) as part:
        part.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert json.loads(path.read_text()) == {"a": 1} and len(list(tmp_path.iterdir())) == 1
