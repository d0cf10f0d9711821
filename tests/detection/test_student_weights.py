"""Weights that a student starts from or is evaluated with are checked before they are used."""

import logging

import pytest
import torch
import torchvision
from detectron2.modeling import build_model

from pcka.detection import ConfigError, Trainer, student_config
from pcka.detection.train import evaluate


@pytest.fixture
def saved(tiny, tmp_path):
    """Return ``saved(change, KEY, VALUE, ...)``: a file of weights after ``change(state)``."""

    def make(change=lambda state: state, *opts):
        state = change(build_model(student_config(tiny(*opts))).state_dict())
        torch.save({"model": state}, tmp_path / "weights.pth")
        return str(tmp_path / "weights.pth")

    return make


def start(tiny, file):
    trainer = Trainer(tiny("MODEL.WEIGHTS", file))
    trainer.resume_or_load(resume=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state,
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"student.{key}": value for key, value in state.items()},
    ],
)
def test_a_whole_student_starts_and_is_evaluated(tiny, saved, caplog, change):
    file = saved(change)
    with caplog.at_level(logging.INFO):
        start(tiny, file)
    assert f"116 of 116 entries of the backbone from {file}" in caplog.text
    evaluate(tiny("MODEL.WEIGHTS", file), "unused", resume=False)


def test_part_of_the_backbone_is_counted(tiny, saved, caplog):
    file = saved(lambda s: {k: v for k, v in s.items() if k.startswith("backbone.bottom_up")})
    with caplog.at_level(logging.INFO):
        start(tiny, file)
    assert f"100 of 116 entries of the backbone from {file}" in caplog.text
    with pytest.raises(ConfigError, match=r"random weights: .* unfilled, such as backbone"):
        evaluate(tiny("MODEL.WEIGHTS", file), "unused", resume=False)


def test_nothing_of_the_backbone(tiny, tmp_path, saved):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "torchvision.pth")
    for file in (
        str(tmp_path / "torchvision.pth"),
        saved(lambda s: {k: v for k, v in s.items() if not k.startswith("backbone")}),
    ):
        with pytest.raises(ConfigError, match=r"fills none of the 116 .*import_weights\.py"):
            start(tiny, file)


def test_another_number_of_classes_is_not_evaluated(tiny, saved):
    file = saved(lambda s: s, "MODEL.ROI_HEADS.NUM_CLASSES", 5)
    with pytest.raises(ConfigError, match=r"cls_score.*\(6, 16\) in the file.*number of classes"):
        evaluate(tiny("MODEL.WEIGHTS", file), "unused", resume=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tiny, saved, value):
    def change(state):
        state["backbone.fpn_lateral3.bias"][0] = value
        return state

    file = saved(change)
    words = "holds NaN or infinity in backbone.fpn_lateral3.bias"
    with pytest.raises(ConfigError, match=words):
        start(tiny, file)
    with pytest.raises(ConfigError, match=words):
        evaluate(tiny("MODEL.WEIGHTS", file), "unused", resume=False)
