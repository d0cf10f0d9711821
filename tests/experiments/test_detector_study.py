"""Studies of tiny detectors: a whole study, and mistakes that are refused before any run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pcka.detection.config_terms import term_specs
from pcka.experiments.pages.report import report_page
from pcka.experiments.study.study_file import load_study

ROOT = Path(__file__).parents[2]
STUDIES = [
    *sorted(ROOT.glob("configs/ablations/*.yaml")),
    *sorted(ROOT.glob("configs/table1/*.yaml")),
    ROOT / "configs/quickstart/demo.yaml",
    ROOT / "configs/examples/bccd.yaml",
    ROOT / "configs/classification/digits/demo.yaml",
]


@pytest.fixture
def study_yaml(tiny_yaml, tmp_path):
    content = {
        "TITLE": "tiny",
        "OUTPUT_DIR": str(tmp_path / "out"),
        "TEACHER": {"CONFIG_FILE": str(tiny_yaml.with_name("teacher.yaml"))},
        "STUDENTS": [
            {"NAME": "alone", "CONFIG_FILE": str(tiny_yaml), "OPTS": ["MODEL.PCKA.LOSS_WEIGHT", 0]},
            {"NAME": "PCKA (batch)", "CONFIG_FILE": str(tiny_yaml)},
        ],
        "PICTURE": {"STUDENTS": ["alone", "PCKA (batch)"], "IMAGES": 2},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def arguments(path, coco, *more):
    data = [{"NAME": "tiny", "JSON": "instances.json", "IMAGES": "images"}]
    opts = ["SOLVER.MAX_ITER", 2, "DATASETS.COCO_JSON", data, "DATASETS.COCO_ROOT", coco]
    return [str(argument) for argument in (path, *more, *opts)]


def study(path, coco, *more):
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "study.py", *arguments(path, coco, *more)],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_whole_study(study_yaml, coco, tmp_path):
    run = study(study_yaml, coco)
    assert run.returncode == 0, run.stdout + run.stderr
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    assert list(results) == ["teacher", "alone", "PCKA (batch)"]
    assert [entry["seed"] for entry in results["alone"]] == [1]
    table = (out / "table.md").read_text()
    assert "| PCKA (batch) |" in table and "Seed 1:" in table and "pcka study" in table
    assert (out / "picture.png").read_bytes()[:4] == b"\x89PNG"
    # The student learnt from this study's teacher.
    config = yaml.safe_load((out / "pcka__batch_" / "seed1" / "config.yaml").read_text())
    assert config["MODEL"]["PCKA"]["TEACHER"]["WEIGHTS"] == str(out / "teacher" / "model_final.pth")
    # The page is made from the folder alone.
    page = report_page([out], images=1)
    assert "<h1>tiny</h1>" in page and "ground truth, alone, PCKA (batch), teacher" in page
    for row in table.splitlines()[4:7]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert "</th><td>".join(cells[:2]) + "</td><td>" + "</td><td>".join(cells[2:]) in page
    # A second call trains nothing. If one run is lost, the next call trains that run alone.
    times = {p: p.stat().st_mtime_ns for p in out.rglob("model_final.pth")}
    lost = out / "pcka__batch_" / "seed1"
    # The run looks as if it had been killed before its first checkpoint.
    for path in [lost / "summary.json", lost / "last_checkpoint", *lost.glob("*.pth")]:
        path.unlink()
    again = study(study_yaml, coco)
    assert again.returncode == 0 and "1 of 3 runs to train" in again.stdout, again.stderr
    for path, time in times.items():
        assert (path.stat().st_mtime_ns == time) == (lost not in path.parents)
    # A student is not kept beside a teacher that did not teach it.
    (out / "teacher" / "summary.json").rename(tmp_path / "summary.json")
    orphan = study(study_yaml, coco)
    assert orphan.returncode == 2 and "was taught by a teacher that is no longer" in orphan.stderr
    (tmp_path / "summary.json").rename(out / "teacher" / "summary.json")
    # A run of another config in the same folder is not taken for this one.
    other = study(study_yaml, coco, "SOLVER.BASE_LR", "0.5")
    assert other.returncode == 2 and "holds a run of another config" in other.stderr
    assert "SOLVER.BASE_LR" in other.stderr


def test_example_study(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = load_study("configs/ablations/digits_grouping.yaml")
    assert len(found.settings) == 1 + 3 * 2
    values = [candidate.value for candidate in found.settings[-1].candidates]
    assert values == ["0.3", "3", "30"]
    [spec] = term_specs(found.settings[-1].candidates[0].report[0].config)
    assert spec.loss_args["grouping"] == "position" and spec.loss_args["center"] is False
    assert spec.weight == pytest.approx(0.3)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_is_valid(monkeypatch, path):
    monkeypatch.chdir(ROOT)
    settings = load_study(str(path)).settings
    runs = [candidate.report[0] for setting in settings[1:] for candidate in setting.candidates]
    assert runs and all(run.is_taught for run in runs)
    for run in runs:
        if run.kind.name == "detection":
            term_specs(run.config)


@pytest.mark.slow
def test_a_folder_of_something_else_is_left_alone(study_yaml, coco, tmp_path):
    mine = tmp_path / "out" / "teacher" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    run = study(study_yaml, coco)
    assert run.returncode == 2 and "holds files that are not of a study" in run.stderr
    assert mine.read_text() == "mine"


@pytest.mark.slow
def test_bad_data_stops_before_any_run(study_yaml, tmp_path):
    run = study(study_yaml, tmp_path / "nowhere")
    assert run.returncode == 2 and "no annotation file" in run.stderr
    assert not (tmp_path / "out").exists()
