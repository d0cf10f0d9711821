"""The page of classifiers' runs: predictions, the choice of images, and what is refused."""

import json
import re
import shutil

import pytest
import torch
from browser import look, needs_chromium
from classifier_runs import CPU, TERMS, add_tiny_models, make_config, save_teacher

from pcka.classification.data import build_data
from pcka.classification.models import create_model
from pcka.classification.train import train
from pcka.errors import ConfigError
from pcka.experiments.classification.report import predict, predictions_section, term_curves
from pcka.experiments.pages.report import read_subject, report_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with the finished runs ``alone`` and ``taught``."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        add_tiny_models(patch)
        taught = {
            "teacher": save_teacher(folder / "t.pth"),
            "terms": [TERMS["fcka"], TERMS["kd"]],
            "train": {"gradient_every": 2},
        }
        train(make_config(folder / "alone"), CPU)
        train(make_config(folder / "taught", taught), CPU)
    return folder


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    add_tiny_models(monkeypatch)


def read(*folders):
    return {label: runs[0] for label, runs in read_subject(folders).students.items()}


def data_of(run):
    cfg = run.config
    return build_data(cfg.data, batch_size=cfg.train.batch_size, seed=cfg.seed, device="cpu")


def test_predictions_are_those_of_the_saved_weights(runs):
    [run] = read(runs / "taught").values()
    data = data_of(run)
    found = predict(run, data)
    summary = json.loads((runs / "taught" / "summary.json").read_text())
    labels = torch.cat([labels for _, labels in data.val.epoch(0)])
    top1 = 100 * (found.classes == labels).float().mean().item()
    assert top1 == pytest.approx(summary["last"]["top1"], abs=1e-4)
    model = create_model("tiny", 10).eval()
    model.load_state_dict(torch.load(runs / "taught" / "student.pth", weights_only=True)["model"])
    images, labels = next(data.val.epoch(0))
    wanted = model(images).softmax(1)[torch.arange(len(labels)), labels]
    torch.testing.assert_close(found.truth[: len(labels)], wanted.detach())


def test_images_that_differ_most_come_first(runs):
    both = read(runs / "alone", runs / "taught")
    data = data_of(both["alone"])
    a, b = (predict(run, data) for run in both.values())
    differ = [i for i in range(len(a.classes)) if a.classes[i] != b.classes[i]]
    first = max(differ, key=lambda i: abs(a.truth[i] - b.truth[i]))
    section = predictions_section(both, None, 3)
    assert f"alone and taught take {len(differ)} of {len(a.classes)} images" in section.text[0]
    texts = [text.get_text() for text in section.parts[0].figure.axes[0].texts]
    label = torch.cat([labels for _, labels in data.val.epoch(0)])[first]
    names = [data.classes[i] for i in (label, a.classes[first], b.classes[first])]
    assert texts[:3] == [f"is: {names[0]}", f"alone: {names[1]}", f"taught: {names[2]}"]
    assert texts[3].startswith("teacher: ")
    pixels = section.parts[0].figure.axes[0].images[0].get_array()
    assert pixels.shape == (32, 32, 3) and 0 <= pixels.min() < pixels.max() <= 1


def test_curves_of_a_run(runs):
    curves = term_curves(runs / "taught")
    kinds = {"cka/fcka_last", "share/fcka_last", "share/kd_logits"}
    assert curves.keys() == kinds | {"gradient/fcka_last", "gradient/kd_logits"}
    assert all(epochs.tolist() == [1, 2] for epochs, _ in curves.values())


@pytest.fixture(scope="module")
def page(runs):
    with pytest.MonkeyPatch.context() as patch:
        add_tiny_models(patch)
        return report_page([runs / "alone", runs / "taught"], images=3)


@needs_chromium
def test_sound_in_a_browser(page, tmp_path):
    assert look(page, tmp_path, width=360) == {"problems": [], "pictures": 6, "width": 360}


def test_the_page(runs, page):
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
    assert headings == [
        "Results",
        "Accuracy",
        "During training",
        "Relations",
        "Predictions",
        "Config differences",
        "Provenance",
    ]
    assert page.count("<img ") == 6 and "1 is that of the cross-entropy" in page
    for name in ("layers student alone", "layers distilled student", "logits"):
        assert f'alt="{name}, of taught"' in page
    assert '<th scope="row">terms.kd.loss</th><td>–</td><td>KD</td>' in page
    environment = json.loads((runs / "alone" / "environment.json").read_text())
    assert environment["torch"] in page and environment["git"] in page


def test_a_run_alone_shows_its_mistakes(runs):
    [run] = read(runs / "alone").values()
    section = predictions_section({"alone": run}, None, 2)
    assert section.text[0].startswith("alone is wrong about")
    assert "The teacher is not shown: no run here was taught." in section.text[1]


def test_what_is_gone_is_said(runs, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.yaml", "summary.json"):
        (bare / name).write_text((runs / "alone" / name).read_text())
    with pytest.raises(ConfigError, match=r"no picture can be drawn .* holds no student\.pth"):
        report_page([bare])
    (bare / "summary.json").unlink()
    with pytest.raises(ConfigError, match="is not finished: 0 of 2 epoch"):
        report_page([bare])


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": NaN}', '{"last": 5}', "\udcff"])
def test_damaged_files_of_a_run(runs, tmp_path, text):
    folder = tmp_path / "run"
    shutil.copytree(runs / "alone", folder)
    (folder / "environment.json").write_text(text, errors="surrogateescape")
    assert "not recorded" in report_page([folder])
    (folder / "summary.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError, match=r"summary\.json is (damaged|no summary)") as error:
        report_page([folder])
    assert "\n" not in str(error.value)


def test_detectors_and_classifiers_are_not_mixed(runs, tmp_path):
    pytest.importorskip("detectron2")
    content = "{VERSION: 2, SEED: 1, DATASETS: {TEST: [x]}, MODEL: {DEVICE: cpu}}"
    (tmp_path / "config.yaml").write_text(content)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match="not both: report them apart"):
        report_page([runs / "alone", tmp_path])
