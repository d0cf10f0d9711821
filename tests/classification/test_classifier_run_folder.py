"""A run's folder: one run at a time, resumed with its own config, data and files."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from classifier_runs import CPU, TERMS, add_tiny_models, make_config, noise_images, save_teacher
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pcka.classification.building import build_run_data, check_teacher
from pcka.classification.engine import Engine
from pcka.classification.records import read_summary
from pcka.classification.teacher import Teacher
from pcka.classification.train import evaluate_student, train
from pcka.errors import ConfigError
from pcka.run_lock import LOCK


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    add_tiny_models(monkeypatch)


class StoppedError(Exception):
    """An error that stands for a kill."""


@pytest.fixture
def folders(tmp_path):
    """Return images of two classes, and ``run(*opts)``, which trains on them for three epochs."""
    noise_images(tmp_path / "data", 16)
    tree = {
        "data": {"name": "folder", "root": str(tmp_path / "data"), "workers": 0},
        "train": {"epochs": 3, "batch_size": 16, "milestones": [2]},
    }

    def run(*opts, resume=False):
        return train(make_config(tmp_path / "run", tree, *map(str, opts)), CPU, resume=resume)

    return tmp_path, run, tree


def stop_after(epoch, monkeypatch, run, *opts):
    whole = Engine._train_epoch

    def train_epoch(self, model, index, bar):
        if index == epoch:
            raise StoppedError
        whole(self, model, index, bar)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_train_epoch", train_epoch)
        with pytest.raises(StoppedError):
            run(*opts)


def test_two_runs_in_one_folder(folders):
    path, run, _ = folders
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pcka.run_lock import locked_folder\n"
            "with locked_folder(sys.argv[1]): print('locked', flush=True); time.sleep(60)",
            path / "run",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "locked\n"
    for resume in (False, True):
        with pytest.raises(ConfigError, match=f"at work in .*process {holder.pid} on"):
            run(resume=resume)
    assert {p.name for p in (path / "run").iterdir()} == {LOCK}
    holder.kill()
    holder.wait()
    run()
    assert not (path / "run" / LOCK).exists()


def remove_an_image(data):
    (data / "train" / "a" / "3.png").unlink()


def rename_a_class(data):
    for split in ("train", "val"):
        (data / split / "a").rename(data / split / "z")


def add_a_class(data):
    for split in ("train", "val"):
        shutil.copytree(data / split / "a", data / split / "c")


def swap_two_images(data):
    one, other = (data / "train" / name / "0.png" for name in ("a", "b"))
    one.rename(data / "x.png")
    other.rename(one)
    (data / "x.png").rename(other)


def rename_an_image(data):
    (data / "val" / "b" / "0.png").rename(data / "val" / "b" / "first.png")


@pytest.mark.parametrize(
    ("change", "opts", "words"),
    [
        (remove_an_image, (), r"number of training images \(was 32, is 31\); names of training"),
        (rename_a_class, (), r"classes \(2 then, 2 now; gone: \['a'\], new: \['z'\]\)"),
        (add_a_class, (), r"classes \(2 then, 3 now; gone: \[\], new: \['c'\]\)"),
        (swap_two_images, (), r"Different: pixels of training images\. Set these back"),
        (rename_an_image, (), r"Different: names of evaluated images"),
        (None, ("data.memory_mb", 0), "were kept in memory, are kept on disk .set data.memory_mb"),
        (None, ("train.lr", 0.2), r"different: train\.lr \(was 0\.05, is 0\.2\)"),
        (None, ("train.epochs", 9), r"train\.epochs \(was 3, is 9\)"),
        (None, ("student.name", "tiny_wide"), r"student\.name"),
    ],
)
def test_resume_with_something_else(folders, monkeypatch, change, opts, words):
    path, run, _ = folders
    stop_after(1, monkeypatch, run)
    before = {p.name: p.stat().st_mtime_ns for p in (path / "run").iterdir()}
    if change is not None:
        change(path / "data")
    with pytest.raises(ConfigError, match=words) as error:
        run(*opts, resume=True)
    assert "\n" not in str(error.value)
    assert {p.name: p.stat().st_mtime_ns for p in (path / "run").iterdir()} == before


def test_resume_with_what_may_change(folders, monkeypatch):
    path, run, _ = folders
    stop_after(1, monkeypatch, run)
    shutil.move(path / "data", path / "moved")
    opts = ("data.root", path / "moved", "data.memory_mb", 99, "train.log_every", 3)
    assert run(*opts, "train.eval_every", 2, resume=True)["epochs"] == 3


def flip(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 255 for byte in content[middle : middle + 64])
    path.write_bytes(content)


def with_values(**values):
    def change(run):
        path = run / "checkpoint.pth"
        torch.save({**torch.load(path, weights_only=True), **values}, path)

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "checkpoint.pth").unlink(), "2 epochs or more, and checkpoint.pth is"),
        (lambda run: flip(run / "checkpoint.pth"), "checkpoint.pth is damaged"),
        (with_values(step="x"), "damaged or of another run"),
        (with_values(step=-5), "step -5 of 6"),
        (with_values(step=10**6), "step 1000000 of 6"),
        (with_values(step=6, history=[]), "no evaluation"),
        (lambda run: (run / "config.yaml").unlink(), "config.yaml is gone"),
        (lambda run: (run / "config.yaml").write_bytes(b""), "config.yaml"),
        (lambda run: (run / "config.yaml").write_bytes(b"\x00\xff[["), "config.yaml"),
        (lambda run: (run / "data.json").write_text("{"), "data.json is damaged"),
    ],
)
def test_damaged_folders(folders, monkeypatch, damage, words):
    path, run, _ = folders
    stop_after(2, monkeypatch, run)
    run_folder = path / "run"
    (run_folder / "metrics.csv").write_text("epoch,top1\n1,50\n2,50\n3,50\n")
    damage(run_folder)
    with pytest.raises(ConfigError, match=words) as error:
        run(resume=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", "{}", "null", "[]"])
def test_a_damaged_summary_is_written_again(folders, content):
    path, run, _ = folders
    expected = run()
    (path / "run" / "summary.json").write_text(content)
    (path / "run" / "metrics.csv").write_bytes(b"\x00,,,\n1")
    assert read_summary(path / "run") is None
    assert run(resume=True)["last"] == expected["last"]


def test_folders_that_cannot_be_written(folders):
    path, run, _ = folders
    (path / "file").write_text("mine")
    os.symlink("/nonexistent/folder", path / "dangling")
    for name in ("file", "file/run", "dangling"):
        with pytest.raises(ConfigError, match="cannot be written"):
            run("output_dir", path / name)


def test_tensorboard_keeps_the_row_that_was_checkpointed(folders, monkeypatch):
    path, run, _ = folders
    stop_after(2, monkeypatch, run)
    run(resume=True)
    events = EventAccumulator(str(path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("epoch")] == [(2, 1), (4, 2), (6, 3)]


def test_class_names_are_kept_and_compared(folders):
    path, run, tree = folders
    assert run()["classes"] == ["a", "b"]
    for name in ("student.pth", "checkpoint.pth"):
        content = torch.load(path / "run" / name, weights_only=True)
        assert content["classes"] == ["a", "b"]
    shutil.rmtree(path / "data" / "train")  # val alone can be evaluated
    cfg = make_config(path / "run", tree)
    assert evaluate_student(cfg, CPU).samples == 32
    (path / "data" / "val" / "a").rename(path / "data" / "val" / "dog")
    with pytest.raises(ConfigError, match=r"trained on other classes .* class 0 was 'a', is 'b'"):
        evaluate_student(cfg, CPU)
    noise_images(path / "other", 16)
    for split in ("train", "val"):
        (path / "other" / split / "b").rename(path / "other" / split / "B")
    student = path / "run" / "student.pth"
    teacher = {"name": "tiny", "weights": str(student), "min_accuracy": 0}
    taught = {"teacher": teacher, "terms": [TERMS["kd"]]}
    data = {**tree["data"], "root": str(path / "other")}
    cfg = make_config(path / "taught", {**tree, "data": data, **taught})
    with pytest.raises(ConfigError, match=r"teacher\.weights .*student\.pth were trained on other"):
        train(cfg, CPU)


def test_a_teacher_of_the_most_frequent_class_does_not_pass(tmp_path):
    noise_images(tmp_path / "data", 20)
    for index in range(2, 20):
        (tmp_path / "data" / "val" / "b" / f"{index}.png").unlink()
    tree = {"data": {"name": "folder", "root": str(tmp_path / "data"), "workers": 0}}
    teacher = save_teacher(tmp_path / "t.pth", "tiny", 2)
    del teacher["min_accuracy"]
    cfg = make_config(tmp_path / "run", {**tree, "teacher": teacher, "terms": [TERMS["kd"]]})
    data = build_run_data(cfg, CPU)

    class Always(torch.nn.Module):
        def forward(self, images):
            return images.new_tensor([1.0, 0.0]).repeat(len(images), 1) + 0 * self.weight

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

    black = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    always = Teacher(Always(), **black, data_mean=black["mean"], data_std=black["std"])
    with pytest.raises(ConfigError, match=r"reaches top-1 90\.91.*most frequent class: 90\.91"):
        check_teacher(cfg, always, data, CPU)


def test_what_identifies_the_images_is_plain(folders):
    path, _, tree = folders
    record = build_run_data(make_config(path / "x", tree), CPU).record
    assert json.loads(json.dumps(record)) == record
    pixels = np.asarray(Image.open(path / "data" / "train" / "a" / "0.png"))
    Image.fromarray(pixels ^ 1).save(path / "data" / "train" / "a" / "0.png")
    other = build_run_data(make_config(path / "x", tree), CPU).record
    assert [key for key in record if record[key] != other[key]] == ["pixels of training images"]
