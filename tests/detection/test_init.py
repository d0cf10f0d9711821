"""pcka init: what follows from the data, and that the written config trains."""

import json

import numpy as np
import pytest
import yaml
from detector_runs import train
from detectron2.modeling import build_model
from PIL import Image

from pcka.detection.checks.preflight import check_run
from pcka.detection.config import load_config, student_config
from pcka.detection.init import command
from pcka.detection.init.choices import anchor_ratios, anchor_sizes, patch_sizes
from pcka.detection.init.command import main
from pcka.detection.init.students import STUDENTS

SMALL = (
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.FPN.OUT_CHANNELS", 64, "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 64, "DATALOADER.NUM_WORKERS", 0),
    *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64),
)


def images(folder, count=4, size=(96, 64)):
    """Write noise of ``(width, height)`` as 0.png, 1.png, ..."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for i in range(count):
        pixels = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def yolo(root):
    for split in ("train", "valid"):
        images(root / split / "images")
        (root / split / "labels").mkdir()
        for i in range(4):
            (root / split / "labels" / f"{i}.txt").write_text(f"{i % 2} 0.5 0.5 0.25 0.5\n")
    (root / "data.yaml").write_text("names: [dark, light]\n")
    return root


def roboflow(root):
    for split in ("train", "valid"):
        images(root / split)
        content = {
            "images": [
                {"id": i, "file_name": f"{i}.png", "width": 96, "height": 64} for i in range(4)
            ],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1, "bbox": [8, 8, 24, 32], "iscrowd": 0}
                | {"area": 768, "segmentation": [[8, 8, 32, 8, 32, 40, 8, 40]]}
                for i in range(4)
            ],
            "categories": [{"id": 0, "name": "root"}, {"id": 1, "name": "cell"}],
        }
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def run(data, output, *more):
    return main([str(data), "--output", str(output), *more])


@pytest.mark.parametrize(
    ("make", "student", "classes"),
    [
        (yolo, "faster_rcnn_r18", "ROI_HEADS"),
        pytest.param(yolo, "retinanet_r18", "RETINANET", marks=pytest.mark.slow),
        pytest.param(roboflow, "fcos_r18", "FCOS", marks=pytest.mark.slow),
        pytest.param(roboflow, "mask_rcnn_r50", "ROI_HEADS", marks=pytest.mark.slow),
    ],
)
def test_the_written_config_trains(tmp_path, monkeypatch, capsys, make, student, classes):
    monkeypatch.chdir(tmp_path)
    data, output = make(tmp_path / f"data_{student}"), tmp_path / "own.yaml"
    assert run(data, output, "--student", student) == 0
    words = capsys.readouterr().out
    assert f"data_{student}_train: 4" in words and "own_teacher.yaml" in words
    assert Image.open(tmp_path / "own_labels.png").size == (960, 640)
    content = yaml.safe_load(
        output.read_text().replace("(", "[").replace(",)", "]").replace(")", "]")
    )
    names = 2 if make is yolo else 1
    assert content["MODEL"][classes]["NUM_CLASSES"] == names
    assert content["INPUT"]["MIN_SIZE_TRAIN"] == [256]  # 64 pixels are enlarged so far
    teacher = load_config(str(tmp_path / "own_teacher.yaml"), [*SMALL, "MODEL.RESNETS.NORM", "BN"])
    check_run(teacher)
    train(teacher)
    cfg = load_config(str(output), [*SMALL, "MODEL.PCKA.TERMS.0.LOSS_ARGS.patch_size", 1])
    cfg.MODEL.PCKA.TERMS[0]["FEATURES"] = cfg.MODEL.PCKA.TERMS[0]["FEATURES"][:2]
    cfg.MODEL.PCKA.TEACHER.OPTS = [str(x) for x in ("MODEL.FPN.OUT_CHANNELS", 64)]
    check_run(cfg)
    train(cfg)
    assert (tmp_path / "output/own/model_final.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_is_a_detector_and_so_is_its_teacher(tmp_path, monkeypatch, name):
    """Each config builds at full size; detectron2 itself compares anchors with levels."""
    monkeypatch.setattr(command, "draw_labels", lambda *_: None)
    data, output = roboflow(tmp_path / f"every_{name}"), tmp_path / "own.yaml"
    assert run(data, output, "--student", name) == 0
    cpu = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    student = load_config(str(output), cpu)
    teacher = load_config(str(tmp_path / "own_teacher.yaml"), cpu)
    assert not teacher.MODEL.PCKA.TERMS and student.MODEL.PCKA.TERMS
    for cfg in (student_config(student), teacher):
        levels = build_model(cfg).backbone.output_shape()
        assert set(student.MODEL.PCKA.TERMS[0]["FEATURES"]) <= set(levels)


def test_anchors_are_quantiles_of_the_boxes():
    boxes = np.array([(s, s) for s in range(10, 211)], float)
    assert anchor_sizes(boxes, ("p2", "p3", "p4", "p5", "p6")) == [30, 70, 110, 150, 190]
    # Small boxes: each level has anchors of two strides or more, and each is larger than the last.
    assert anchor_sizes(np.full((5, 2), 4.0), ("p2", "p3", "p4")) == [8, 16, 32]
    assert anchor_sizes(np.full((5, 2), 900.0), ("p2", "p3", "p4")) == [64, 128, 256]


def test_ratios_are_height_to_width():
    assert anchor_ratios(np.array([(10.0, 10.0)] * 5)) == [1.0]
    wide = np.array([(20.0, 10.0)] * 4 + [(10.0, 10.0)] * 8 + [(10.0, 20.0)] * 4)
    assert anchor_ratios(wide) == [0.5, 1.0, 2.0]
    flat = np.array([(200.0, 20.0)] * 10 + [(200.0, 4.0)] * 10)
    assert anchor_ratios(flat) == [0.1]  # not twice


def test_patches_leave_sixteen_on_a_level():
    found = patch_sizes(np.array([640, 640]), ("p2", "p3", "p4", "p5"))
    assert found == {"p2": 16, "p3": 16, "p4": 8, "p5": 4}
    assert patch_sizes(np.array([64, 64]), ("p2", "p3", "p4", "p5")) == {
        "p2": 4,
        "p3": 2,
        "p4": 1,
        "p5": 1,
    }
    assert "p5" not in patch_sizes(np.array([32, 32]), ("p2", "p5"))


def test_what_it_refuses(tmp_path, capsys):
    data, output = yolo(tmp_path / "data_refused"), tmp_path / "own.yaml"
    cases = [
        (["--student", "faster_rcnn_r5"], "--student: unknown"),
        (["--teacher", "COCO/none.yaml"], "'COCO/none.yaml' is neither a file here"),
        (["--teacher-weights", "x.pth"], "needs the config of the teacher"),
        (["--student", "mask_rcnn_r50"], "not every box has a mask"),
    ]
    for more, words in cases:
        assert run(data, output, *more) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", output) == 2
    assert "roboflow_coco" in capsys.readouterr().err
    output.write_text("mine")
    assert run(data, output) == 2
    assert "exists already" in capsys.readouterr().err and output.read_text() == "mine"
    assert not (tmp_path / "own_teacher.yaml").exists()


def test_the_term_reads_levels_that_the_teacher_has(tmp_path):
    """A RetinaNet of the zoo has no p2; its weights are not read here."""
    data, output = yolo(tmp_path / "data_levels"), tmp_path / "own.yaml"
    zoo = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    assert run(data, output, "--student", "faster_rcnn_r18", "--teacher", zoo) == 0
    [term] = load_config(str(output)).MODEL.PCKA.TERMS
    assert term["FEATURES"] == ["p3", "p4", "p5"]
    assert not (tmp_path / "own_teacher.yaml").exists()


def test_every_class_is_named_in_a_comment(tmp_path):
    """Many names take several lines, and a line break in a name does not end the comment."""
    data, output = yolo(tmp_path / "data_names"), tmp_path / "own.yaml"
    names = ["a\nb: c", *(f"class_number_{i}" for i in range(20))]
    (data / "data.yaml").write_text(f"names: {json.dumps(names)}\n")
    assert run(data, output, "--student", "fcos_r18") == 0
    comments = [line for line in output.read_text().splitlines() if line.startswith("    # ")]
    assert all(any(name in line for line in comments) for name in ("a b: c", *names[1:]))
    assert load_config(str(output)).MODEL.FCOS.NUM_CLASSES == 21


def test_an_image_that_cannot_be_read_leaves_no_file(tmp_path, capsys):
    data, output = yolo(tmp_path / "data_cut"), tmp_path / "own.yaml"
    image = data / "train" / "images" / "1.png"
    image.write_bytes(image.read_bytes()[:-4000])
    assert run(data, output) == 2
    assert "1.png cannot be read as an image" in capsys.readouterr().err
    assert not list(tmp_path.glob("own*"))
