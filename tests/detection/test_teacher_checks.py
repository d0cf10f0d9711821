"""The checks of a teacher before training starts."""

import json
import logging
import re

import numpy as np
import pytest
import torch
from detector_runs import train
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from pcka.detection import ConfigError, FrozenTeacher, build_teacher
from pcka.detection.checks.preflight import check_run
from pcka.detection.checks.teacher_checks import (
    check_ap,
    check_pixels,
    constants_warnings,
    statistics_warnings,
)

MIN_AP = "MODEL.PCKA.TEACHER.MIN_AP"
MIN_AP_IMAGES = "MODEL.PCKA.TEACHER.MIN_AP_IMAGES"
CPU = torch.device("cpu")
RGB_MEAN, RGB_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
BGR_MEAN, BGR_STD = RGB_MEAN[::-1], RGB_STD[::-1]


@pytest.mark.parametrize(
    ("mean", "std", "input_format", "words"),
    [
        (BGR_MEAN, [1, 1, 1], "BGR", []),
        ([102.9801, 115.9465, 122.7717], [1, 1, 1], "BGR", []),
        (RGB_MEAN, RGB_STD, "RGB", []),
        (BGR_MEAN, BGR_STD, "BGR", []),
        ([127.5, 127.5, 127.5], [64, 64, 64], "RGB", []),
        ([0.0], [1.0], "L", []),
        (BGR_MEAN, [1, 1, 1], "RGB", ["PIXEL_MEAN .* order BGR, but INPUT.FORMAT is RGB"]),
        (RGB_MEAN, RGB_STD, "BGR", ["PIXEL_MEAN .* order RGB", "PIXEL_STD .* order RGB"]),
        (
            [0.485, 0.456, 0.406],
            [0.229, 0.224, 0.225],
            "RGB",
            ["PIXEL_MEAN .* from 0 to 1", "PIXEL_STD .* from 0 to 1"],
        ),
    ],
)
def test_imagenets_constants_in_the_wrong_place(mean, std, input_format, words):
    found = constants_warnings(np.array(mean), np.array(std), input_format)
    assert len(found) == len(words)
    for warning, pattern in zip(found, words, strict=True):
        assert re.search(pattern, warning)


@pytest.mark.parametrize(
    ("mean", "std", "scale", "fine"),
    [
        (RGB_MEAN, RGB_STD, 255, True),
        (BGR_MEAN, [1, 1, 1], 255, True),  # the first layer divides
        (RGB_MEAN, RGB_STD, 1, False),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 255, False),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 1, True),
    ],
)
def test_statistics_of_images(mean, std, scale, fine):
    images = [np.random.default_rng(0).uniform(0, scale, (8, 9, 3)) for _ in range(2)]
    found = statistics_warnings(images, np.array(mean), np.array(std))
    assert len(found) == (not fine)
    assert fine or "2 training images" in found[0]


def test_pixels_in_the_teachers_order(tiny, caplog):
    dicts = DatasetCatalog.get(tiny().DATASETS.TRAIN[0])

    def warnings(*opts):
        cfg = tiny("INPUT.FORMAT", "BGR", "MODEL.PCKA.TEACHER.OPTS", list(opts))
        return check_pixels(build_teacher(cfg), cfg, dicts)

    assert warnings() == []
    rgb = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_STD", RGB_STD]
    assert warnings(*rgb, "MODEL.PIXEL_MEAN", RGB_MEAN) == []
    with caplog.at_level(logging.WARNING):
        assert len(warnings(*rgb)) == 1
    assert "reverse one of them" in caplog.text
    (scale,) = warnings("MODEL.PIXEL_MEAN", [0.1, 0.2, 0.3], "MODEL.PIXEL_STD", [0.3, 0.3, 0.3])
    assert "8 training images" in scale


def test_heads_and_surplus_are_reported(tiny, tmp_path, caplog):
    path = tmp_path / "teacher.pth"
    state = torch.load(tiny().MODEL.PCKA.TEACHER.WEIGHTS)["model"]
    state["backbone.bottom_up.res4.9.conv1.weight"] = torch.zeros(1)
    lost = "roi_heads.box_predictor.cls_score.weight"
    state[lost] = torch.zeros(3, 3)
    torch.save({"model": state}, path)
    cfg = tiny("MODEL.PCKA.TEACHER.WEIGHTS", str(path), MIN_AP, 1)
    with caplog.at_level(logging.INFO):
        teacher = build_teacher(cfg)
    assert teacher.missing_heads == (lost,)
    assert f"missing: {lost}" in caplog.text
    assert "unexpected: backbone.bottom_up.res4.9.conv1.weight" in caplog.text
    with pytest.raises(ConfigError, match=f"MIN_AP needs the teacher's heads.*{lost}"):
        check_ap(teacher, cfg, CPU)


def knowing(coco, images):
    """Patch ``FrozenTeacher.detect`` to find every object of the first images, and no other."""
    content = json.loads((coco / "instances.json").read_text())

    def detect(self, batched_inputs, device):
        results = []
        for x in batched_inputs:
            seen = [a for a in content["annotations"] if a["image_id"] == x["image_id"] <= images]
            boxes = torch.tensor([a["bbox"] for a in seen]).reshape(-1, 4).float()
            boxes[:, 2:] += boxes[:, :2]
            found = Instances((x["height"], x["width"]))
            found.pred_boxes = Boxes(boxes)
            found.scores = torch.ones(len(seen))
            found.pred_classes = torch.tensor([{3: 0, 8: 1}[a["category_id"]] for a in seen])
            results.append({"instances": found})
        return results

    return detect


def test_ap_of_the_first_images(tiny, coco, monkeypatch):
    monkeypatch.setattr(FrozenTeacher, "detect", knowing(coco, images=2))
    cfg = tiny(MIN_AP, 99.0, MIN_AP_IMAGES, 2)
    teacher = build_teacher(cfg)
    assert check_ap(teacher, cfg, CPU) == pytest.approx(100)
    cfg = tiny(MIN_AP, 99.0, MIN_AP_IMAGES, 8)
    with pytest.raises(ConfigError, match=r"AP of \d\d\.\d\d on the first 8 images of tiny, below"):
        check_ap(teacher, cfg, CPU)


def test_the_whole_detector_is_measured_in_its_channel_order(tiny, batch):
    cfg = tiny("INPUT.FORMAT", "RGB", "MODEL.PCKA.TEACHER.OPTS", ["INPUT.FORMAT", "BGR"])
    teacher = build_teacher(cfg)
    inputs = batch((64, 96))
    swapped = [{**inputs[0], "image": inputs[0]["image"].flip(0)}]
    with torch.no_grad():
        wanted = teacher.model(swapped)[0]["instances"]
    found = teacher.detect(inputs, CPU)[0]["instances"]
    assert len(wanted) and found.pred_boxes.tensor.equal(wanted.pred_boxes.tensor)


def test_other_classes_cannot_be_measured(tiny, tmp_path):
    classes = ["MODEL.ROI_HEADS.NUM_CLASSES", 5]
    cfg = tiny("MODEL.PCKA.TEACHER.OPTS", classes, MIN_AP, 1.0)
    teacher = build_teacher(cfg)
    teacher.missing_heads = ()
    with pytest.raises(ConfigError, match="knows 5 classes and tiny has 2"):
        check_ap(teacher, cfg, CPU)


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        ([MIN_AP, 1.0, "DATASETS.TEST", "()"], "MIN_AP is measured on DATASETS.TEST"),
        ([MIN_AP, 101], "MIN_AP is in percent"),
        ([MIN_AP_IMAGES, 0], "MIN_AP_IMAGES is 1 or more"),
    ],
)
def test_settings(tiny, opts, words):
    with pytest.raises(ConfigError, match=words):
        check_run(tiny(*opts))


def test_training_stops_before_its_first_step(tiny):
    cfg = tiny(MIN_AP, 90.0, MIN_AP_IMAGES, 3)
    with pytest.raises(ConfigError, match=r"below .*MIN_AP 90.*Likely causes: weights of another"):
        train(cfg)
    check_run(cfg)  # the folder holds no run: it can be started again


@pytest.mark.slow
def test_a_teacher_that_passes_leaves_no_trace(tiny, coco, tmp_path, monkeypatch):
    plain = train(tiny("OUTPUT_DIR", str(tmp_path / "plain"), "SOLVER.MAX_ITER", 2))
    opts = [MIN_AP, 50.0, MIN_AP_IMAGES, 2]
    with monkeypatch.context() as m:
        m.setattr(FrozenTeacher, "detect", knowing(coco, images=2))
        checked = train(tiny("SOLVER.MAX_ITER", 2, *opts))
    wanted, found = (t.model.state_dict() for t in (plain, checked))
    assert all(found[key].equal(wanted[key]) for key in wanted)
    # A resumed run does not measure again: this random teacher would not pass.
    assert train(tiny("SOLVER.MAX_ITER", 3, *opts), resume=True).start_iter == 2


def test_without_terms_nothing_is_measured(tiny):
    cfg = tiny(MIN_AP, 90.0, "MODEL.PCKA.LOSS_WEIGHT", 0)
    assert build_model(cfg).teacher is None
    train(cfg)
