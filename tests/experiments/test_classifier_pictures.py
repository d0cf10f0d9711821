"""Pictures of a finished classifier: opening a run, comparing layers, and the command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import classifier_runs
import numpy as np
import pytest
import torch

from pcka.classification.checkpoints import CheckpointError
from pcka.classification.train import train
from pcka.core import reference
from pcka.errors import ConfigError
from pcka.experiments.classification.finished_run import draw_pictures, open_run

ROOT = Path(__file__).parents[2]
TERMS = [classifier_runs.TERMS[name] for name in ("fcka", "intra")]


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        classifier_runs.add_tiny_models(patch)
        yield patch


@pytest.fixture(scope="module")
def runs(patch, tmp_path_factory):
    """Return the finished runs ``taught`` and ``alone`` of one epoch."""
    folder = tmp_path_factory.mktemp("runs")
    teacher = classifier_runs.save_teacher(folder / "teacher.pth")
    one = {"train": {"epochs": 1, "milestones": []}}
    for name, tree in (("taught", {"teacher": teacher, "terms": TERMS}), ("alone", {})):
        train(classifier_runs.make_config(folder / name, {**one, **tree}), classifier_runs.CPU)
    return folder


def test_opens_the_networks_of_the_run(runs):
    run = open_run(runs / "taught")
    before, after = run.students.values()
    assert list(run.students) == ["student before", "distilled student"]
    assert classifier_runs.equal(after.state_dict(), classifier_runs.weights(runs / "taught"))
    cfg = classifier_runs.make_config(
        runs / "again",
        {"teacher": {"name": "tiny_wide", "weights": str(runs / "teacher.pth")}, "terms": TERMS},
    )
    distiller, _ = classifier_runs.make_distiller(cfg)
    assert classifier_runs.equal(before.state_dict(), distiller.student.state_dict())
    assert run.teacher.model.fc.in_features == 16


def test_compares_what_the_layers_give(runs):
    figures = dict(draw_pictures(runs / "taught", alone=runs / "alone", images=48))
    assert list(figures) == ["layers_student_alone", "layers_distilled_student", "logits"]
    axes = figures["layers_distilled_student"].axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["stage1", "stage2", "pooled", "logits"]  # `last` is stage2 again
    run = open_run(runs / "taught", alone=runs / "alone")
    images, labels = (torch.cat(parts) for parts in zip(*run.batches(48), strict=True))
    assert len(images) == 45 and len(labels.unique()) > 5
    student = run.students["distilled student"].eval()
    x = student.stage1(images).mean((2, 3)).detach().double()
    y = run.teacher.model(images).double()
    shown = np.asarray(axes.images[0].get_array())
    assert shown[0, 3] == pytest.approx(reference.cka(x, y, debiased=True).item(), abs=1e-6)
    titles = [a.get_title(loc="left") for a in figures["logits"].axes]
    assert [t for t in titles if t.endswith(": samples")] == [
        "teacher: samples",
        "student alone: samples",
        "distilled student: samples",
    ]
    gram = np.asarray(figures["logits"].axes[0].images[0].get_array())
    y = y[torch.argsort(labels, stable=True)]
    y = y - y.mean(0)
    np.testing.assert_allclose(gram, y @ y.T / (y @ y.T).norm(), atol=1e-8)


def test_layers_by_name(runs):
    figure = next(draw_pictures(runs / "taught", images=32, student_layers=["stage1.0", "logits"]))
    labels = [text.get_text() for text in figure[1].axes[0].get_yticklabels()]
    assert labels == ["stage1.0", "logits"]
    with pytest.raises(ConfigError, match=r"^Tiny has no layer 'stage4', did you mean 'stage"):
        next(draw_pictures(runs / "taught", teacher_layers=["stage4"]))


def test_what_is_no_finished_run(runs, tmp_path):
    with pytest.raises(ConfigError, match="no folder of a run"):
        open_run(tmp_path)
    with pytest.raises(ConfigError, match="had no teacher"):
        open_run(runs / "alone")
    shutil.copytree(runs / "taught", tmp_path / "taught")
    (tmp_path / "taught" / "student.pth").unlink()
    with pytest.raises(ConfigError, match=r"not finished, as it has no student\.pth"):
        open_run(tmp_path / "taught")
    with pytest.raises(ConfigError, match=r"not finished, as it has no student\.pth"):
        open_run(runs / "taught", alone=tmp_path / "taught")
    (tmp_path / "taught" / "config.yaml").write_text("MODEL: {}\n")
    with pytest.raises(ConfigError, match="a run of detection, not of classification"):
        open_run(runs / "taught", alone=tmp_path / "taught")
    config = (runs / "taught" / "config.yaml").read_text()
    shutil.copytree(runs / "taught", tmp_path / "other")
    gone = config.replace(str(runs / "teacher.pth"), str(tmp_path / "gone.pth"))
    (tmp_path / "other" / "config.yaml").write_text(gone)
    with pytest.raises(CheckpointError, match=r"gone\.pth"):
        open_run(tmp_path / "other")


@pytest.mark.slow
def test_command_without_detectron2(tmp_path):
    """Draw the smallest networks of the zoo, untrained, on two classes of 8x8 noise."""
    from pcka.classification.config import load_config
    from pcka.classification.models import create_model
    from pcka.classification.records import save_weights

    tree = {
        "output_dir": "unused",
        "data": {"name": "folder", "root": classifier_runs.noise_images(tmp_path / "images", 4)},
        "student": {"name": "resnet8"},
        "teacher": {"name": "resnet8", "weights": str(tmp_path / "teacher.pth")},
        "terms": TERMS,
    }
    run = tmp_path / "run"
    run.mkdir()
    classifier_runs.config_file(run / "config.yaml", tree)
    assert load_config([run / "config.yaml"]).distils
    save_weights(create_model("resnet8", 2), tmp_path / "teacher.pth")
    save_weights(create_model("resnet8", 2), run / "student.pth")
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "detectron2.py").write_text("raise ImportError('not installed')")
    paths = [str(tmp_path / "absent"), os.environ.get("PYTHONPATH", "")]

    def draw(folder, *more):
        return subprocess.run(
            [sys.executable, ROOT / "tools" / "pictures.py", folder, *more],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )

    done = draw(run, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    names = ["layers_distilled_student.png", "layers_student_before.png", "logits.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG" and name in done.stdout
    failed = draw(run, "--image", "3")
    assert failed.returncode == 2 and "--image is for a detector" in failed.stderr
    failed = draw(tmp_path)
    assert failed.returncode == 2 and "pictures.py: error:" in failed.stderr
    assert "Traceback" not in failed.stderr
