"""``pcka export`` on classifiers: a run, and every network by name."""

import json

import numpy as np
import pytest
import torch
from classifier_runs import CPU, add_tiny_models, make_config
from torch import nn

from pcka.classification.models import create_model
from pcka.classification.train import train
from pcka.cli import main
from pcka.deploy.classifier import open_classifier
from pcka.deploy.comparison import compare
from pcka.deploy.exported_file import FORMATS, Traceable, load_traced, write_traced
from pcka.deploy.runs import find_run
from pcka.errors import ConfigError

AXES = {"images": {0: "batch"}, "logits": {0: "batch"}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return the folder of a run on the digits."""
    add_tiny_models(monkeypatch)
    train(make_config(tmp_path / "run", {"train": {"epochs": 1, "milestones": []}}), CPU)
    return tmp_path / "run"


def load(path):
    if path.suffix == ".ts":
        module = torch.jit.load(str(path))
        return lambda images: module(images).detach().numpy()
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    return lambda images: session.run(None, {"images": images.numpy()})[0]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_classifies_as_its_network(run, file_format):
    path = run / f"student{FORMATS[file_format]}"
    if file_format == "onnx":
        pytest.importorskip("onnxruntime")
    assert main(["export", str(run), "--format", file_format]) == 0
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = open_classifier(find_run(run), torch.device("cpu")).model(images)
    np.testing.assert_allclose(load(path)(images), expected, atol=1e-5)
    about = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert about["classes"] == [str(digit) for digit in range(10)]
    assert about["input"]["shape"] == ["batch", 3, 32, 32]
    assert about["input"]["channels"] == "RGB" and about["pixel_mean"] == [0.3053] * 3
    assert about["check"]["of"] == "digits" and about["check"]["images"] == 8


def test_another_size_and_data_that_are_gone(run, capsys):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("name: digits", "name: cifar10"))
    arguments = ["--format", "torchscript", "--size", "24x40"]
    assert main(["export", str(run), *arguments]) == 0
    assert load(run / "student.ts")(torch.randn(1, 3, 24, 40)).shape == (1, 10)
    about = json.loads((run / "student.ts.json").read_text())
    assert about["check"]["of"] == "noise" and about["input"]["shape"] == ["batch", 3, 24, 40]


# One of every family; all of them were exported once.
@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    "name",
    [
        *("resnet8x4", "wrn_16_1", "vgg8", "mobilenet_v2_cifar", "shufflenet_v1_cifar"),
        *("shufflenet_v2_cifar", "resnet50_cifar", "resnet18", "mobilenet_v1"),
    ],
)
def test_every_family_can_be_exported(tmp_path, name, file_format):
    if file_format == "onnx":
        pytest.importorskip("onnxruntime")
    model = create_model(name, 7).eval()
    traceable = Traceable(name, model, torch.randn(2, 3, 32, 32), ["logits"], AXES, "images")
    write_traced(traceable, tmp_path / "file", file_format)
    file = load_traced(tmp_path / "file", file_format)
    inputs = [torch.randn(count, 3, 32, 32) for count in (1, 3)]
    with torch.no_grad():
        compare(lambda x: (model(x),), file, inputs, ["logits"])


def test_names_a_network_that_cannot_be_traced(tmp_path):
    class Words(nn.Module):
        def forward(self, x):
            return "words"

    traceable = Traceable("words", Words(), torch.zeros(1), ["logits"], {})
    with pytest.raises(ConfigError, match="words cannot be exported to torchscript"):
        write_traced(traceable, tmp_path / "file", "torchscript")
