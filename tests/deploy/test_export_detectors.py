"""``pcka export`` on detectors: every kind, in both formats, run elsewhere; and what is refused."""

import json
import sys

import numpy as np
import pytest
import torch
from detector_runs import train

from pcka.cli import main
from pcka.deploy import export
from pcka.deploy.detector import TrainedDetector, open_detector
from pcka.deploy.export_detector import traceable_detector
from pcka.deploy.runs import TrainedRun, find_run
from pcka.detection import ConfigError, load_config
from pcka.detection.data.coco_json import register_coco_json

OPTS = ["SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0", "MODEL.PCKA.TERMS", []]
DENSE = "MODEL.PCKA.STUDENT_META_ARCHITECTURE"
KINDS = {
    "faster": [],
    "mask": ["MODEL.MASK_ON", True],
    "cascade": [
        *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    ],
    "retinanet": [
        *(DENSE, "RetinaNet"),
        *("MODEL.BACKBONE.NAME", "build_retinanet_narrow_resnet_fpn_backbone"),
        *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
    ],
    "fcos": [
        *(DENSE, "FCOS"),
        *("MODEL.BACKBONE.NAME", "build_fcos_narrow_resnet_fpn_backbone"),
        *("MODEL.FCOS.SCORE_THRESH_TEST", 0.0),
    ],
    "silent": ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0],
}


@pytest.fixture(scope="module")
def runs(tiny_yaml, tmp_path_factory):
    """Return ``runs(kind)``: the folder of a run of one iteration, which is trained once."""
    folder = tmp_path_factory.mktemp("runs")

    def run(kind):
        if not (folder / kind).exists():
            opts = [*OPTS, "OUTPUT_DIR", str(folder / kind), *KINDS[kind]]
            cfg = load_config(str(tiny_yaml), opts)
            register_coco_json(cfg)
            train(cfg)
        return folder / kind

    return run


def load(path):
    """Return an exported file as a function, as a user without this project loads it."""
    if path.suffix == ".ts":
        module = torch.jit.load(str(path))
        return lambda image: [found.numpy() for found in module(image)]
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    return lambda image: session.run(None, {"image": image.numpy()})


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["onnx", "torchscript"])
@pytest.mark.parametrize("kind", ["faster", "mask", "cascade", "retinanet", "fcos"])
def test_a_file_detects_as_its_network_on_images_of_other_sizes(runs, tmp_path, kind, file_format):
    if file_format == "onnx":
        pytest.importorskip("onnxruntime")
    run, path = runs(kind), tmp_path / f"it{'.onnx' if file_format == 'onnx' else '.ts'}"
    assert main(["export", str(run), "--format", file_format, "--output", str(path)]) == 0
    detector, file = open_detector(find_run(run), torch.device("cpu")), load(path)
    for height, width in ((96, 130), (70, 50)):
        image = torch.randint(0, 256, (3, height, width)).float()
        with torch.no_grad():
            expected = detector.model([{"image": image}])[0]["instances"]
        boxes, scores, classes, *masks = file(image)
        assert len(masks) == (kind == "mask")
        assert len(scores) > 0
        np.testing.assert_allclose(boxes, expected.pred_boxes.tensor, atol=0.01)
        np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
        np.testing.assert_array_equal(classes, expected.pred_classes)
    about = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert about["classes"] == ["dark", "light"] and about["category_ids"] == [3, 8]
    assert about["input"]["channels"] == "BGR"
    assert about["input"]["shape"] == [3, "height", "width"]
    assert about["pixel_mean"] == [103.53, 116.28, 123.675]
    assert about["check"]["images"] == 4 and about["check"]["of"] == "tiny"
    assert about["check"]["results"] > 0 and about["versions"]["torch"] == torch.__version__


@pytest.mark.slow
def test_a_fixed_size_is_that_of_the_file(runs, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    path = tmp_path / "new" / "fixed.onnx"
    assert main(["export", str(runs("faster")), "--size", "64x96", "--output", str(path)]) == 0
    (image,) = ort.InferenceSession(str(path)).get_inputs()
    assert image.shape == [3, 64, 96]
    about = json.loads((tmp_path / "new" / "fixed.onnx.json").read_text())
    assert about["input"]["shape"] == [3, 64, 96]


@pytest.mark.slow
def test_a_file_may_detect_nothing(runs, tmp_path):
    path = tmp_path / "silent.ts"
    arguments = ["--format", "torchscript", "--output", str(path)]
    assert main(["export", str(runs("silent")), *arguments]) == 0
    assert [len(found) for found in load(path)(torch.zeros(3, 64, 64))] == [0, 0, 0]
    assert json.loads((tmp_path / "silent.ts.json").read_text())["check"]["results"] == 0


@pytest.mark.slow
def test_a_file_that_differs_is_not_kept(runs, tmp_path, monkeypatch, capsys):
    def wrong(*arguments):
        network = load_traced(*arguments)
        return lambda image: (network(image)[0] + 1, *network(image)[1:])

    load_traced = export.load_traced
    monkeypatch.setattr(export, "load_traced", wrong)
    arguments = ["--format", "torchscript", "--output", str(tmp_path / "it.ts")]
    assert main(["export", str(runs("retinanet")), *arguments]) == 1
    assert "the exported file computes something else" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (("MODEL.META_ARCHITECTURE", "PanopticFPN"), "a PanopticFPN cannot be exported"),
        (("MODEL.KEYPOINT_ON", True), "MODEL.KEYPOINT_ON cannot be exported"),
        (("MODEL.ROI_HEADS.NAME", "RROIHeads"), "MODEL.ROI_HEADS.NAME RROIHeads cannot"),
        (("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"), "PROPOSAL_GENERATOR.NAME RRPN cannot"),
    ],
)
def test_refuses_by_name_what_cannot_be_exported(tmp_path, opts, words):
    opts = ("MODEL.ROI_HEADS.NAME", "StandardROIHeads", *opts)
    cfg = load_config("", ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", *opts])
    run = TrainedRun(tmp_path, "detection", tmp_path)
    detector = TrainedDetector(run, cfg, torch.nn.Identity(), (), ())
    with pytest.raises(ConfigError, match=words):
        traceable_detector(detector, torch.zeros(3, 64, 64), None)


def test_refuses_wrong_use_in_one_line(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("MODEL: {}")
    ts = ("--format", "torchscript")
    for arguments, words in {
        (run, "--format", "onx"): "unknown --format 'onx', did you mean onnx?",
        (run, *ts, "--size", "64"): "--size is height x width in pixels",
        (run, *ts, "--size", "0x9"): "--size is height x width in pixels",
        (run, *ts): "has no trained weights (model_final.pth)",
        (tmp_path, *ts): "holds no run",
    }.items():
        assert main(["export", *map(str, arguments)]) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1
    (run / "model_final.pth").touch()
    (run / "student.ts.json").write_text("mine")
    assert main(["export", str(run), *ts]) == 2
    assert "student.ts.json exists, and nothing is overwritten" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(run)]) == 2
    assert "--format onnx needs onnx" in capsys.readouterr().err
