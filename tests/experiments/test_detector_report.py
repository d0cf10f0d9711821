"""Comparing detections, and the page of detectors' runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import look, needs_chromium
from detector_runs import train
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from pcka.detection import Trainer, load_config
from pcka.detection.data.coco_json import register_coco_json
from pcka.errors import ConfigError
from pcka.experiments.detection.matching import difference
from pcka.experiments.detection.picture import evaluated, most_different, teacher_detections, truth
from pcka.experiments.pages.report import report_page

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
QUICK = ("SOLVER.MAX_ITER", 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)


def panel(*found):
    """Return boxes of 10x10 pixels at (x, 0): (x, class, score), or (x, class) for the truth."""
    return {
        "boxes": np.array([[x, 0, x + 10, 10] for x, *_ in found], float).reshape(-1, 4),
        "classes": np.array([entry[1] for entry in found], int),
        "scores": None if found and len(found[0]) == 2 else np.array([e[2] for e in found], float),
    }


TRUTH = panel((0, 0), (20, 1), (40, 0))
NOTHING = {**panel(), "scores": np.zeros(0)}


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        (panel((0, 0, 0.9)), panel((0, 0, 0.8)), 0),
        (panel((0, 0, 0.9)), NOTHING, 1),
        (panel((0, 0, 0.9)), panel((20, 1, 0.9)), 2),  # equally many, but others
        (panel((0, 1, 0.9)), NOTHING, 1),  # wrong
        (panel((0, 1, 0.9)), panel((60, 0, 0.9)), 0),  # both wrong
        (panel((0, 0, 0.9), (1, 0, 0.8)), panel((0, 0, 0.9)), 1),  # found twice
        (panel((0, 0, 0.9), (70, 0, 0.8)), TRUTH, 3),  # mistakes: two missed, one wrong
    ],
)
def test_difference_by_hand(a, b, wanted):
    assert difference(a, b, TRUTH) == difference(b, a, TRUTH) == wanted


def test_images_that_differ_come_first_and_weak_detections_do_not_count():
    a = [NOTHING, panel((0, 0, 0.9)), panel((0, 0, 0.9), (20, 1, 0.9)), panel((40, 0, 0.4))]
    order = most_different(a, [NOTHING] * 4, [TRUTH] * 4)
    assert order == [2, 1, 0, 3]


@pytest.fixture(scope="module")
def runs(tiny_yaml, tmp_path_factory):
    """Return a folder with the finished runs ``alone`` and ``taught``."""
    folder = tmp_path_factory.mktemp("runs")
    for name, opts in (
        ("alone", ["MODEL.PCKA.LOSS_WEIGHT", 0]),
        ("taught", ["MODEL.PCKA.GRADIENT_PERIOD", 1]),
    ):
        cfg = load_config(str(tiny_yaml), [*QUICK, *opts, "OUTPUT_DIR", str(folder / name)])
        register_coco_json(cfg)
        train(cfg)
    return folder


@pytest.fixture(scope="module")
def page(runs):
    """Return the page of both runs, with one image."""
    return report_page([runs / "alone", runs / "taught"], images=1)


def images_of(page):
    return re.findall(r'<img [^>]*alt="([^"]*)"', page)


@pytest.mark.slow
def test_a_run_by_the_command(runs, tmp_path):
    run = subprocess.run(
        [
            sys.executable,
            ROOT / "tools" / "report.py",
            runs / "taught",
            "--out",
            tmp_path / "page.html",
            "--title",
            "<Mine>",
            "--images",
            "2",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "page.html").read_text()
    curves, *relations, boxes = images_of(page)
    layers = ["layers student before, of taught", "layers distilled student, of taught"]
    assert relations[:2] == layers and relations[2:]
    assert all(name.startswith("patches pcka") for name in relations[2:])
    assert "share of the loss" in curves
    assert boxes == "Boxes on 2 images, side by side: ground truth, taught, teacher"
    assert "<h1>&lt;Mine&gt;</h1>" in page and "Gradients are norms" in page
    assert "The 2 of 9 images on which taught makes most mistakes" in page
    environment = json.loads((runs / "taught" / "environment.json").read_text())
    assert environment["torch"] in page and environment["device"] in page
    assert "Config differences" not in page


def test_runs_beside_each_other(page):
    assert images_of(page)[-1].endswith("ground truth, alone, taught, teacher")
    assert "The 1 of 9 images on which alone and taught differ most" in page
    [differences] = re.findall(r'<th scope="row">MODEL.PCKA.LOSS_WEIGHT</th>(.*?)</tr>', page)
    assert differences == "<td>0.0</td><td>1.0</td>"
    assert 'scope="row">OUTPUT_DIR' not in page


@needs_chromium
def test_sound_in_a_browser(page, tmp_path):
    pictures = len(images_of(page))
    assert pictures > 4
    assert look(page, tmp_path, width=360) == {"problems": [], "pictures": pictures, "width": 360}


def test_a_run_that_was_not_taught(runs):
    page = report_page([runs / "alone"])
    assert len(images_of(page)) == 1 and "none was taught" in page
    assert "<p>No run here was taught.</p>" in page
    assert "The teacher is not shown: no run here was taught." in page


def test_the_teacher_detects_as_its_evaluation_does(runs, tmp_path):
    """The oracle is the COCO results of the teacher's own evaluation."""
    cfg = load_config(str(runs / "taught" / "config.yaml"))
    data = evaluated(cfg)
    found = teacher_detections(cfg, data)
    theirs = load_config(cfg.MODEL.PCKA.TEACHER.CONFIG_FILE, ["OUTPUT_DIR", str(tmp_path)])
    model = build_model(theirs)
    DetectionCheckpointer(model).load(cfg.MODEL.PCKA.TEACHER.WEIGHTS)
    Trainer.test(theirs, model)
    path = tmp_path / "inference" / "tiny" / "coco_instances_results.json"
    results = json.loads(path.read_text())
    assert results and len(results) == sum(len(p["boxes"]) for p in found)
    scores = sorted(float(s) for p in found for s in p["scores"])
    assert scores == pytest.approx(sorted(r["score"] for r in results), abs=1e-5)


def test_truth_is_corners_of_boxes_without_crowds(runs):
    data = evaluated(load_config(str(runs / "alone" / "config.yaml")))
    record = data.records[0]
    crowd = {**record["annotations"][0], "iscrowd": 1}
    found = truth({**record, "annotations": [*record["annotations"], crowd]})
    x, y, w, h = record["annotations"][0]["bbox"]
    assert found["boxes"][0].tolist() == [x, y, x + w, y + h] and len(found["boxes"]) == 2


def test_what_cannot_be_reported(runs, tmp_path):
    def refused(*folders):
        with pytest.raises(ConfigError) as error:
            report_page(folders)
        return str(error.value)

    assert "there is no folder" in refused(tmp_path / "none")
    assert "is no folder of a run or a study" in refused(tmp_path)
    assert "is named twice" in refused(runs / "alone", runs / "alone")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for name in ("config.yaml", "metrics.json"):
        (unfinished / name).write_text((runs / "taught" / name).read_text())
    assert "is not finished: 2 of 2 it. Continue it with --resume" in refused(unfinished)
    (unfinished / "config.yaml").write_text("a: 1")
    assert "is no config of a detector (MODEL) or a classifier (student)" in refused(unfinished)
    (tmp_path / "comparison" / "teacher").mkdir(parents=True)
    (tmp_path / "comparison" / "teacher" / "config.yaml").touch()
    assert "is not finished: run pcka study again" in refused(tmp_path / "comparison")
    assert "is a study: report it alone" in refused(tmp_path / "comparison", runs / "alone")


def test_without_any_picture_it_stops(runs, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.yaml", "summary.json"):
        (bare / name).write_text((runs / "alone" / name).read_text())
    with pytest.raises(ConfigError, match=r"no picture can be drawn .*no detections"):
        report_page([bare])
