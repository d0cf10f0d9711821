"""``pcka predict`` on detectors: what is written, and what is refused."""

import json
import shutil

import cv2
import numpy as np
import pytest
from detector_runs import train
from PIL import Image
from pycocotools.coco import COCO

from pcka.cli import main
from pcka.deploy.detector import labels_of
from pcka.deploy.outputs import unique_names
from pcka.deploy.runs import TrainedRun
from pcka.detection import load_config
from pcka.detection.data.coco_json import register_coco_json

OPTS = ["SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0"]


@pytest.fixture(scope="module")
def run(tiny_yaml, tmp_path_factory):
    """Return the folder of a Mask R-CNN of one iteration, with a teacher."""
    folder = tmp_path_factory.mktemp("runs") / "mask"
    cfg = load_config(str(tiny_yaml), [*OPTS, "OUTPUT_DIR", str(folder), "MODEL.MASK_ON", True])
    register_coco_json(cfg)
    train(cfg)
    return folder


def predict(*arguments):
    return main(["predict", *map(str, arguments), "--device", "cpu"])


@pytest.mark.slow
def test_predictions_are_those_of_the_evaluation(run, coco, tmp_path):
    assert predict(run, coco / "images", "--output", tmp_path / "out", "--threshold", "0.1") == 0
    evaluated = json.loads((run / "inference/tiny/coco_instances_results.json").read_text())
    found = COCO(str(tmp_path / "out" / "predictions.json"))
    assert [c["name"] for c in found.loadCats(found.getCatIds())] == ["dark", "light"]
    assert [image["file_name"] for image in found.loadImgs(range(1, 10))] == [
        str(coco / "images" / f"{index}.png") for index in range(9)
    ]
    ours = found.loadAnns(found.getAnnIds())
    assert len(ours) == len(evaluated) > 0
    for a, b in zip(ours, evaluated, strict=True):
        assert {key: a[key] for key in b} == b
    drawn = Image.open(tmp_path / "out" / "0.png")
    assert drawn.size == (80 * 7, 64 * 7)


@pytest.mark.slow
def test_draws_the_teacher_on_the_right(run, coco, tmp_path):
    images = [coco / "images" / "0.png", str(coco / "images" / "[12].png")]
    output = tmp_path / "out"
    assert predict(run, *images, "--output", output, "--teacher", "--batch", "2") == 0
    assert sorted(p.name for p in output.iterdir()) == [
        "0.png",
        "1.png",
        "2.png",
        "predictions.json",
        "predictions_teacher.json",
    ]
    assert Image.open(output / "0.png").size == (2 * 80 * 7, 64 * 7)


def write_video(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (80, 64))
    for index in range(frames):
        writer.write(np.full((64, 80, 3), 20 * index, np.uint8))
    writer.release()


@pytest.mark.slow
def test_draws_every_frame_of_a_video(run, coco, tmp_path):
    write_video(tmp_path / "0.avi", 5)
    output = tmp_path / "out"
    images = [coco / "images" / "0.png", tmp_path / "0.avi"]
    assert predict(run, *images, "--output", output, "--batch", "2") == 0
    video = cv2.VideoCapture(str(output / "0_2.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and video.get(cv2.CAP_PROP_FPS) == 10
    assert video.read()[1].shape == (64 * 7, 80 * 7, 3)
    content = json.loads((output / "predictions.json").read_text())
    assert [image.get("frame") for image in content["images"]] == [None, 0, 1, 2, 3, 4]


@pytest.mark.slow
def test_names_come_from_the_summary_where_the_data_are_gone(run, coco, tmp_path, caplog):
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    path = moved / "config.yaml"
    path.write_text(
        path.read_text().replace(str(coco), str(tmp_path / "gone")).replace("tiny", "lost")
    )
    assert predict(moved, coco / "images" / "0.png") == 0
    content = json.loads((moved / "predictions" / "predictions.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "dark"}, {"id": 2, "name": "light"}]


def test_names_come_from_a_folder_of_a_labelling_tool(coco, tmp_path):
    for split in ("train", "valid"):  # a Roboflow export
        shutil.copytree(coco / "images", tmp_path / "export" / split)
        shutil.copy(coco / "instances.json", tmp_path / "export" / split / "_annotations.coco.json")
    folders = [{"NAME": "labelled", "PATH": str(tmp_path / "export")}]
    opts = ["DATASETS.FOLDERS", folders, "MODEL.ROI_HEADS.NUM_CLASSES", 2]
    cfg = load_config("", [*opts, "DATASETS.TEST", "('labelled_valid',)"])
    names, ids = labels_of(TrainedRun(tmp_path, "detection", tmp_path), cfg)
    assert names == ("dark", "light") and len(set(ids)) == 2


@pytest.mark.slow
def test_names_the_image_whose_pixels_are_damaged(run, coco, tmp_path, capsys):
    content = (coco / "images" / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    assert predict(run, tmp_path / "cut.png", "--output", tmp_path / "out") == 2
    assert "cut.png is no image that can be read" in capsys.readouterr().err


def test_refuses_folders_without_a_usable_run(tmp_path, capsys):
    for name, content in {"empty": None, "other": "a: 1", "unfinished": "MODEL: {}"}.items():
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / "config.yaml").write_text(content)
    for name, words in {
        "absent": "is no folder",
        "empty": "holds no run, as it has no config.yaml",
        "other": "is no config of a detector (MODEL) or a classifier (student)",
        "unfinished": "has no trained weights (model_final.pth): continue it with --resume",
    }.items():
        assert predict(tmp_path / name, tmp_path) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1


@pytest.fixture
def fake_run(tmp_path):
    """Return a folder that looks like a finished run; requests are refused before it is read."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("MODEL: {}")
    (folder / "model_final.pth").touch()
    return folder


def test_refuses_images_that_are_none(fake_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "text.mp4").write_text("no video")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "deep.png")
    for name, words in {
        "absent.png": "there is no such file or folder",
        "*.gif": "there is no such file or folder",
        "empty": "no images in it",
        "text.png": "text.png is no image that can be read",
        "text.mp4": "text.mp4 is no video that OpenCV can read",
        "deep.png": "deep.png has more than 8 bits a channel",
    }.items():
        assert predict(fake_run, tmp_path / name) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1


def test_overwrites_nothing(fake_run, tmp_path, capsys):
    (fake_run / "predictions").mkdir()
    (fake_run / "predictions" / "mine.txt").write_text("mine")
    assert predict(fake_run, tmp_path) == 2
    assert "predictions is not empty, and nothing is overwritten" in capsys.readouterr().err
    assert predict(fake_run, tmp_path, "--output", fake_run / "config.yaml") == 2
    assert "config.yaml is a file" in capsys.readouterr().err
    assert [p.name for p in (fake_run / "predictions").iterdir()] == ["mine.txt"]


def test_refuses_a_device_that_is_not_here(fake_run, tmp_path, capsys):
    assert main(["predict", str(fake_run), str(tmp_path), "--device", "tpu"]) == 2
    assert "--device tpu is not usable here" in capsys.readouterr().err


def test_names_of_drawings_differ():
    assert unique_names(["a", "b", "a", "A", "a_2"]) == ["a", "b", "a_2", "A_3", "a_2_2"]
