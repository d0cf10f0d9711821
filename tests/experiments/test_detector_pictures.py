"""Pictures of a finished detector: opening a run, comparing layers, and the command."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detector_runs import train
from detectron2.utils.events import EventStorage

from pcka.core import patch_cka, reference
from pcka.detection import ConfigError, build_teacher, load_config
from pcka.detection.data.coco_json import register_coco_json
from pcka.experiments.detection.finished_run import draw_pictures, open_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OPTS = ["SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "0"]


@pytest.fixture(scope="module")
def runs(tiny_yaml, tmp_path_factory):
    """Return runs ``taught`` and ``alone`` of two iterations; the first does not move weights."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in (
        ("still", ["SOLVER.BASE_LR", "0.0", "MODEL.RESNETS.NORM", ""]),
        ("taught", []),
        ("alone", ["MODEL.PCKA.LOSS_WEIGHT", "0"]),
    ):
        cfg = load_config(str(tiny_yaml), [*OPTS, "OUTPUT_DIR", str(folder / name), *more])
        register_coco_json(cfg)
        train(cfg)
    return folder


def test_initial_weights_are_those_that_training_began_with(runs):
    before, after = open_run(runs / "still").students.values()
    weights = before.state_dict()
    assert all(torch.equal(value, weights[k]) for k, value in after.state_dict().items())
    before, after = open_run(runs / "taught").students.values()
    saved = torch.load(runs / "taught" / "model_final.pth", weights_only=False)["model"]
    name = "backbone.fpn_lateral2.weight"
    assert torch.equal(after.state_dict()[name], saved[name])
    assert not torch.equal(before.state_dict()[name], saved[name])


def test_compares_what_the_layers_give(runs):
    run = open_run(runs / "taught", alone=runs / "alone")
    figures = dict(draw_pictures(runs / "taught", alone=runs / "alone", images=6, image=1))
    assert list(figures) == [
        "layers_student_alone",
        "layers_distilled_student",
        "patches_pcka_p2",
        "patches_pcka_p3",
        "patches_pcka_p4",
    ]
    axes = figures["layers_distilled_student"].axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["p2", "p3", "p4", "p5", "p6", "res2", "res3", "res4", "res5"]

    # The oracle uses plain detectron2 modules, image by image, with cells as samples.
    student, teacher = run.students["distilled student"].eval(), build_teacher(run.cfg)
    maps = [
        [net.backbone(net.preprocess_image(inputs).tensor) for net in (student, teacher.model)]
        for inputs in run.inputs(6)
    ]
    rows = [
        torch.cat([pair[i]["p3"].movedim(1, -1).flatten(0, 2) for pair in maps]).detach()
        for i in (0, 1)
    ]
    shown = np.asarray(axes.images[0].get_array())
    wanted = reference.cka(*(r.double() for r in rows), debiased=True).item()
    assert shown[1, 1] == pytest.approx(wanted, abs=1e-5)

    panels = figures["patches_pcka_p2"].axes[1:-1]
    assert [p.get_title(loc="left") for p in panels] == [
        "teacher",
        "student alone",
        "distilled student",
    ]
    wanted = patch_cka(maps[1][0]["p2"], maps[1][1]["p2"], patch_size=4, grouping="batch").item()
    assert float(panels[2].get_xlabel().rsplit(" ", 1)[-1]) == pytest.approx(wanted, abs=6e-4)
    picture = figures["patches_pcka_p2"].axes[0]
    [pixels] = [image.get_array() for image in picture.images]
    [inputs] = run.inputs(1, first=1)
    assert np.array_equal(pixels[..., ::-1].transpose(2, 0, 1), inputs[0]["image"])  # BGR


def test_layers_by_name(runs):
    name, figure = next(draw_pictures(runs / "taught", images=6, student_layers=["res4", "p2"]))
    assert name == "layers_student_before"
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["res4", "p2"]
    with pytest.raises(ConfigError, match="no layer 'p9', did you mean 'p"):
        next(draw_pictures(runs / "taught", teacher_layers=["p9"]))
    with pytest.raises(ConfigError, match="tiny has no image 99"):
        next(draw_pictures(runs / "taught", image=99))


def test_what_is_no_finished_run(runs, tmp_path):
    with pytest.raises(ConfigError, match="no folder of a run"):
        open_run(tmp_path)
    with pytest.raises(ConfigError, match="had no teacher"):
        open_run(runs / "alone")
    shutil.copytree(runs / "taught", tmp_path / "taught")
    config = tmp_path / "taught" / "config.yaml"
    content = yaml.safe_load(config.read_text())
    content["MODEL"]["PCKA"]["TEACHER"]["WEIGHTS"] = str(tmp_path / "gone.pth")
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"the teacher's weights.*no file.*gone\.pth"):
        open_run(tmp_path / "taught")
    content["DATASETS"]["COCO_ROOT"] = str(tmp_path)
    content["DATASETS"]["COCO_JSON"][0]["NAME"] = "lost_pictures"
    content["DATASETS"]["TEST"] = ["lost_pictures"]
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="no annotation file"):
        open_run(tmp_path / "taught")
    (tmp_path / "taught" / "model_final.pth").unlink()
    with pytest.raises(ConfigError, match=r"not finished, as it has no model_final\.pth"):
        open_run(tmp_path / "taught")
    config.write_text("student: {}\n")
    with pytest.raises(ConfigError, match="a run of classification, not of detection"):
        open_run(tmp_path / "taught")


def test_pictures_in_training_leave_no_trace(tiny, runs, tmp_path):
    written = []

    class Storage(EventStorage):
        def put_image(self, name, image):
            written.append((self.iter, name, image))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detectron2.engine.train_loop.EventStorage", Storage)
        train(tiny(*OPTS, "MODEL.PCKA.PICTURE_PERIOD", "2", "OUTPUT_DIR", str(tmp_path / "drawn")))
    names = ["layers_student", "patches_pcka_p2", "patches_pcka_p3", "patches_pcka_p4"]
    assert [(i, name) for i, name, _ in written] == [(1, f"pcka/{name}") for name in names]
    assert all(image.shape[0] == 3 and image.dtype == np.uint8 for _, _, image in written)
    weights = [
        torch.load(folder / "model_final.pth", weights_only=False)["model"]
        for folder in (tmp_path / "drawn", runs / "taught")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


@pytest.mark.slow
def test_command(runs, tmp_path):
    def draw(*arguments):
        return subprocess.run(
            [sys.executable, ROOT / "tools" / "pictures.py", *arguments],
            capture_output=True,
            text=True,
        )

    done = draw(runs / "taught", "--images", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    found = sorted(path.name for path in (runs / "taught" / "pictures").iterdir())
    assert found == [
        "layers_distilled_student.png",
        "layers_student_before.png",
        "patches_pcka_p2.png",
        "patches_pcka_p3.png",
        "patches_pcka_p4.png",
    ]
    failed = draw(tmp_path)
    assert (
        failed.returncode == 2 and "error:" in failed.stderr and "folder of a run" in failed.stderr
    )
    assert "Traceback" not in failed.stderr
