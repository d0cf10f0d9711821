"""Studies of classifiers: reading their runs, and a whole study without detectron2."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from classifier_runs import noise_images

from pcka.errors import ConfigError
from pcka.experiments.classification.figures import accuracy_figure
from pcka.experiments.classification.kind import KIND
from pcka.experiments.study.study_file import load_study

ROOT = Path(__file__).parents[2]
RCKA = str(ROOT / "configs" / "classification" / "methods" / "rcka.yaml")


@pytest.fixture
def study_yaml(tmp_path):
    """Two classes of 8x8 noise, one epoch, ResNet-8 throughout."""
    pair = {
        "data": {"name": "folder", "root": noise_images(tmp_path / "images", 8)},
        "student": {"name": "resnet8"},
        "teacher": {"name": "resnet8", "min_accuracy": 0},
        "output_dir": "unused",
        "train": {"epochs": 2, "batch_size": 8, "milestones": []},
    }
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(pair))
    content = {
        "TASK": "classification",
        "TITLE": "tiny",
        "OUTPUT_DIR": str(tmp_path / "out"),
        "TEACHER": {"CONFIG_FILE": str(tmp_path / "pair.yaml"), "OPTS": ["teacher", "null"]},
        "STUDENTS": [
            {"NAME": "alone", "CONFIG_FILE": str(tmp_path / "pair.yaml")},
            {"NAME": "RCKA", "CONFIG_FILE": [str(tmp_path / "pair.yaml"), RCKA]},
        ],
        "PICTURE": {"STUDENTS": ["alone", "RCKA"]},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def load(path, *opts):
    return load_study(str(path), seeds=[3], opts=list(opts))


@pytest.mark.slow
def test_whole_study_without_detectron2(study_yaml, tmp_path):
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "detectron2.py").write_text("raise ImportError('not installed')")
    paths = [str(tmp_path / "absent"), os.environ.get("PYTHONPATH", "")]

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def study():
        return subprocess.run(
            [sys.executable, ROOT / "tools" / "study.py", study_yaml],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )

    run = study()
    assert run.returncode == 0, run.stdout + run.stderr
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    assert list(results) == ["teacher", "alone", "RCKA"]
    [entry] = results["RCKA"]
    with (out / "rcka" / "seed1" / "metrics.csv").open() as file:
        assert entry["top-1"] == float([*csv.DictReader(file)][-1]["top1"])
    table = (out / "table.md").read_text()
    assert "| RCKA |" in table and "difference from alone (top-1)" in table
    assert (out / "picture.png").read_bytes()[:4] == b"\x89PNG"
    # The page needs no detectron2 either.
    words = [sys.executable, ROOT / "tools" / "report.py", out, "--out", tmp_path / "page.html"]
    report = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert report.returncode == 0, report.stderr
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img ") >= 2 and "difference from alone (top-1)" in page
    # The student learnt from this study's teacher, and a finished run is kept.
    config = yaml.safe_load((out / "rcka" / "seed1" / "config.yaml").read_text())
    assert config["teacher"]["weights"] == str(out / "teacher" / "student.pth")
    again = study()
    assert again.returncode == 0 and "0 of 3 runs to train" in again.stdout, again.stderr


def test_runs_of_a_file(study_yaml, tmp_path):
    study = load(study_yaml, "train.epochs", "7")
    [alone], [rcka] = study.students.values()
    assert alone.teacher is None and rcka.teacher is study.teacher
    assert rcka.config.seed == 3 and rcka.config.output_dir == str(tmp_path / "out/rcka/seed3")
    assert study.teacher.config.teacher is None and rcka.length == 7
    words = KIND.training.command(rcka.files, resume=True)
    assert words[-5:] == ["--config-file", rcka.files[0], "--config-file", RCKA, "--resume"]


def test_progress_and_results(tmp_path):
    assert KIND.training.progress(tmp_path) == 0
    (tmp_path / "metrics.csv").write_text("epoch,top1\n1,10.0\n2,20.0\n")
    assert KIND.training.progress(tmp_path) == 2
    summary = {
        "last": {"epoch": 9, "top1": 70.0, "top5": 90.0},
        "best": {"epoch": 8, "top1": 71.0, "top5": 89.0},
        "parameters": 5,
        "images_per_second": 100.0,
    }
    assert KIND.results.read(summary) == {
        "top-1": 70.0,
        "top-5": 90.0,
        "best top-1": 71.0,
        "parameters": 5,
        "images/s": 100.0,
    }


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["student.name", "resnet9"], "unknown model 'resnet9'"),
        (["terms.fcka.features", "[lost]"], "the student has no feature 'lost'"),
    ],
)
def test_what_cannot_start_is_known_before_any_run(study_yaml, opts, words):
    [run] = load(study_yaml).students["RCKA"]
    with pytest.raises(ConfigError, match=words):
        KIND.training.check(KIND.configs.read(run.files, (*run.opts, *opts)), teacher=False)


def test_figure_shows_every_seed():
    curves = {"alone": [([1, 2], [10.0, 50.0]), ([1, 2], [30.0, 60.0])], "KD": [([1, 2], [5, 70])]}
    left, right = accuracy_figure(curves, teacher=90.0, title="t").axes
    means = [line for line in left.lines if line.get_label() == "alone"]
    assert list(means[0].get_ydata()) == [20.0, 55.0]
    dots = [list(line.get_ydata()) for line in right.lines if line.get_marker() == "o"]
    assert dots == [[50.0, 60.0], [70.0]]
    with pytest.raises(ValueError, match="KD: seeds"):
        accuracy_figure({"KD": [([1], [5]), ([2], [5])]}, teacher=90.0)


@pytest.mark.slow
def test_two_studies_in_one_command_as_jobs(study_yaml, tmp_path):
    pytest.importorskip("submitit")
    content = yaml.safe_load(study_yaml.read_text())
    del content["PICTURE"]
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(yaml.safe_dump(content))
    second.write_text(yaml.safe_dump({**content, "STUDENTS": content["STUDENTS"][:1]}))
    command = [sys.executable, str(ROOT / "tools" / "study.py"), str(first), str(second)]
    command += ["--executor", "local", "--output", str(tmp_path / "both"), "device", "cpu"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stdout + found.stderr
    for name, students in (("a", 2), ("b", 1)):
        rows = list(csv.DictReader((tmp_path / "both" / name / "runs.csv").open()))
        assert len([row for row in rows if row["status"] == "done"]) >= students
