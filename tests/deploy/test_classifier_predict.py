"""``pcka predict`` on classifiers: the table, the contact sheets, and what is refused."""

import csv

import pytest
import torch
from classifier_runs import CPU, add_tiny_models, make_config, noise_images, save_teacher
from PIL import Image

from pcka.classification.data import build_evaluation_data
from pcka.classification.train import train
from pcka.cli import main
from pcka.deploy.classifier import open_classifier
from pcka.deploy.runs import find_run


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    add_tiny_models(monkeypatch)


@pytest.fixture
def run(request, tmp_path):
    """Return the config of a run on 8x8 images of two classes that a teacher taught.

    A parameter is ``data.memory_mb``: with 0 the images are read from disk.
    """
    root = noise_images(tmp_path / "data", per_class=26)
    data = {"name": "folder", "root": root, "holdout": 0.0, "workers": 0}
    data["memory_mb"] = getattr(request, "param", 2048)
    teacher = save_teacher(tmp_path / "teacher.pth", classes=2)
    terms = [{"name": "kd", "features": ["logits"], "loss": "KD"}]
    tree = {"data": data, "teacher": teacher, "terms": terms, "train": {"epochs": 1}}
    tree["train"]["milestones"] = []
    cfg = make_config(tmp_path / "run", tree)
    train(cfg, CPU)
    return cfg


def predict(*arguments):
    return main(["predict", *map(str, arguments), "--device", "cpu"])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("run", [2048, 0], indirect=True)
def test_probabilities_are_those_of_the_evaluation(run, tmp_path):
    images = f"{run.data.root}/val"
    assert predict(run.output_dir, images, "--teacher") == 0
    output = tmp_path / "run" / "predictions"
    assert sorted(p.name for p in output.iterdir()) == [
        "contact_sheet_1.png",
        "contact_sheet_2.png",
        "predictions.csv",
    ]
    table = rows(output / "predictions.csv")
    assert [row["network"] for row in table] == ["student", "teacher"] * 52
    classifier = open_classifier(find_run(run.output_dir), torch.device("cpu"))
    data = build_evaluation_data(run.data, batch_size=52, device="cpu")
    (inputs, _), *_ = data.val.epoch(0)
    for name, network in {"student": classifier.model, "teacher": classifier.teacher()}.items():
        expected = network(inputs).softmax(1)
        own = [row for row in table if row["network"] == name]
        found = torch.tensor(
            [
                [float(row[f"probability_{1 + (row['class_1'] != c)}"]) for c in data.classes]
                for row in own
            ]
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_images_of_another_size_are_resized(run, tmp_path):
    Image.new("L", (30, 20), 200).save(tmp_path / "grey.png")
    assert predict(run.output_dir, tmp_path / "grey.png", "--output", tmp_path / "out") == 0
    (row,) = rows(tmp_path / "out" / "predictions.csv")
    assert {row["class_1"], row["class_2"]} == {"a", "b"}


def test_refuses_what_does_not_apply(run, tmp_path, capsys):
    images = f"{run.data.root}/val"
    assert predict(run.output_dir, images, "--threshold", "0.3") == 2
    assert "--threshold is for detectors" in capsys.readouterr().err
    (tmp_path / "teacher.pth").unlink()
    assert predict(run.output_dir, images, "--teacher") == 2
    assert "no checkpoint" in capsys.readouterr().err
    (tmp_path / "run" / "student.pth").unlink()
    assert predict(run.output_dir, images) == 2
    assert "has no trained weights (student.pth)" in capsys.readouterr().err
    assert not (tmp_path / "run" / "predictions").exists()
