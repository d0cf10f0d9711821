"""Comparisons: files, statistics, and a whole one with tiny detectors."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pcka.detection import ConfigError
from pcka.detection.terms import term_specs
from pcka.experiments.ablation_file import load_ablation
from pcka.experiments.comparison_file import Comparison, load_comparison
from pcka.experiments.comparison_report import markdown_table
from pcka.experiments.detection.task import TASK
from pcka.experiments.report import report_page
from pcka.experiments.run import Run

ROOT = Path(__file__).parents[2]
ABLATIONS = sorted(ROOT.glob("configs/ablations/*.yaml"))


@pytest.fixture
def comparison_yaml(tiny_yaml, tmp_path):
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
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def compare(path, coco, *more):
    data = [{"NAME": "tiny", "JSON": "instances.json", "IMAGES": "images"}]
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "compare.py", path, *more, "SOLVER.MAX_ITER", "2",
         "DATASETS.COCO_JSON", str(data), "DATASETS.COCO_ROOT", coco],
        capture_output=True, text=True,
    )  # fmt: skip


def test_whole_comparison(comparison_yaml, coco, tmp_path):
    run = compare(comparison_yaml, coco)
    assert run.returncode == 0, run.stdout + run.stderr
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    assert list(results) == ["teacher", "alone", "PCKA (batch)"]
    assert [entry["seed"] for entry in results["alone"]] == [1]
    table = (out / "table.md").read_text()
    assert "| PCKA (batch) |" in table and "Seed 1." in table and "tools/compare.py" in table
    assert (out / "picture.png").read_bytes()[:4] == b"\x89PNG"
    # The student saw this comparison's teacher.
    config = yaml.safe_load((out / "pcka__batch_" / "seed1" / "config.yaml").read_text())
    assert config["MODEL"]["PCKA"]["TEACHER"]["WEIGHTS"] == str(out / "teacher" / "model_final.pth")
    # Its page, from the folder alone.
    page = report_page([out], images=1)
    assert "<h1>tiny</h1>" in page and "ground truth, alone, PCKA (batch), teacher" in page
    for row in table.splitlines()[4:7]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert "</th><td>".join(cells[:2]) + "</td><td>" + "</td><td>".join(cells[2:]) in page
    # Again: nothing to train. One run lost: it alone.
    times = {p: p.stat().st_mtime_ns for p in out.rglob("model_final.pth")}
    lost = out / "pcka__batch_" / "seed1"
    for name in ("summary.json", "last_checkpoint"):  # as if killed before its first checkpoint
        (lost / name).unlink()
    again = compare(comparison_yaml, coco)
    assert again.returncode == 0 and "1 of 3 runs to train" in again.stdout, again.stderr
    for path, time in times.items():
        assert (path.stat().st_mtime_ns == time) == (lost not in path.parents)
    # A student is not kept beside a teacher that did not teach it.
    (out / "teacher" / "summary.json").rename(tmp_path / "summary.json")
    orphan = compare(comparison_yaml, coco)
    assert orphan.returncode == 1 and "was taught by a teacher that is gone" in orphan.stderr
    (tmp_path / "summary.json").rename(out / "teacher" / "summary.json")
    # Another config in the same folder is not taken for this one.
    other = compare(comparison_yaml, coco, "SOLVER.BASE_LR", "0.5")
    assert other.returncode == 1 and "holds a run of another config" in other.stderr
    assert "SOLVER.BASE_LR" in other.stderr


@pytest.mark.slow
def test_ablation_with_a_ready_made_teacher(tiny_yaml, tmp_path):
    content = {
        "OUTPUT_DIR": str(tmp_path / "out"),
        "BASE": {
            "NAME": "alone",
            "CONFIG_FILE": str(tiny_yaml),
            "OPTS": ["MODEL.PCKA.LOSS_WEIGHT", 0],
        },
        "SETTINGS": [
            {
                "NAME": "PCKA",
                "CONFIG_FILE": str(tiny_yaml),
                "AXES": {
                    "debiased": {
                        "KEY": "MODEL.PCKA.TERMS.pcka.LOSS_ARGS.debiased",
                        "VALUES": [True],
                    }
                },
            }
        ],
        "SEEDS": [3],
    }
    path = tmp_path / "ablation.yaml"
    path.write_text(yaml.safe_dump(content))
    run = subprocess.run(
        [sys.executable, ROOT / "tools" / "ablate.py", path, "SOLVER.MAX_ITER", "2"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    out = tmp_path / "out"
    with (out / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["setting"], r["debiased"], r["seed"], r["status"]) for r in rows] == [
        ("alone", "", "3", "done"), ("PCKA, debiased=True", "True", "3", "done"),
    ]  # fmt: skip
    config = yaml.safe_load((out / "report/pcka__debiased_true/seed3/config.yaml").read_text())
    assert config["MODEL"]["PCKA"]["TERMS"][0]["LOSS_ARGS"]["debiased"] is True
    assert "(one pair: no interval)" in (out / "table.md").read_text()


def test_example_ablation(monkeypatch):
    monkeypatch.chdir(ROOT)
    ablation = load_ablation("configs/ablations/digits_grouping.yaml", opts=[])
    assert len(ablation.settings) == 1 + 3 * 2
    values = [candidate.value for candidate in ablation.settings[-1].candidates]
    assert values == ["0.3", "3", "30"]
    [spec] = term_specs(ablation.settings[-1].candidates[0].report[0].config)
    assert spec.loss_args["grouping"] == "position" and spec.loss_args["center"] is False
    assert spec.weight == pytest.approx(0.3)


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_is_valid(monkeypatch, path):
    monkeypatch.chdir(ROOT)
    settings = load_ablation(str(path), opts=[]).settings
    runs = [candidate.report[0] for setting in settings[1:] for candidate in setting.candidates]
    assert runs and all(run.task.needs_teacher(run.config) for run in runs)
    for run in runs:
        if run.task is TASK:
            term_specs(run.config)


def test_failed_run_is_reported_with_its_log(comparison_yaml, coco):
    run = compare(comparison_yaml, coco, "SOLVER.BASE_LR", "1e30")
    assert run.returncode == 1
    assert "failed with exit status" in run.stderr and "train.log ends:" in run.stderr
    assert "FloatingPointError" in run.stderr  # from that log


def test_a_folder_of_something_else_is_left_alone(comparison_yaml, coco, tmp_path):
    mine = tmp_path / "out" / "teacher" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    run = compare(comparison_yaml, coco)
    assert run.returncode == 1 and "holds files of something else" in run.stderr
    assert mine.read_text() == "mine"


def test_bad_data_stops_before_any_run(comparison_yaml, tmp_path):
    run = compare(comparison_yaml, tmp_path / "nowhere")
    assert run.returncode == 1 and "no annotation file" in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(STUDENT=[]), "did you mean 'STUDENTS'"),
        (lambda c: c.update(TEACHER=3), "TEACHER is a mapping"),
        (lambda c: c["STUDENTS"][0].pop("NAME"), r"STUDENTS\[0\] needs a NAME"),
        (lambda c: c["STUDENTS"][1].update(NAME="alone"), r"STUDENTS\[1\].*share the folder"),
        (lambda c: c["STUDENTS"][1].update(NAME="Alone"), "'Alone' and 'alone' would share"),
        (lambda c: c["STUDENTS"][1].update(NAME="teacher"), "'the teacher' would share"),
        (lambda c: c.update(STUDENTS=[]), "STUDENTS is missing"),
        (lambda c: c.update(STUDENTS={"NAME": "x"}), "STUDENTS is a list"),
        (lambda c: c["PICTURE"].pop("STUDENTS"), "STUDENTS is missing"),
        (lambda c: c["PICTURE"].update(IMAGES="two"), "IMAGES is a number"),
        (lambda c: c["STUDENTS"][0].update(OPTS="SEED 1"), r"STUDENTS\[0\]: OPTS is a list"),
        (lambda c: c["PICTURE"].update(STUDENTS=["alon"]), "did you mean 'alone'"),
        (lambda c: c["STUDENTS"][0].update(OPTS=["SEEED", 1]), "'SEEED', did you mean 'SEED'"),
    ],
)
def test_bad_files(comparison_yaml, change, words):
    content = yaml.safe_load(comparison_yaml.read_text())
    change(content)
    comparison_yaml.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=words):
        load_comparison(str(comparison_yaml), seeds=[1], opts=[])


def test_statistics_of_made_up_results():
    def entries(*aps):
        return [
            {
                "seed": s,
                "AP": ap,
                "AP50": ap + 20,
                "AP75": ap,
                "parameters": 1_500_000,
                "seconds": 9,
            }
            for s, ap in enumerate(aps, start=1)
        ]

    run = Run(TASK, "", 1, (), (), Path(), None, 1)
    comparison = Comparison(TASK, "", Path(), run, {"alone": [run], "PCKA": [run]})
    results = {"teacher": entries(50.0)[:1], "alone": entries(10.0, 20.0, 30.0),
               "PCKA": entries(13.0, 24.0, 35.0)}  # fmt: skip
    lines = markdown_table(comparison, results).splitlines()
    assert lines[2] == "| teacher | 50.0 | 70.0 | 50.0 |  | 1.50 M | 9 |"
    assert lines[3].startswith("| alone | 20.0 ± 10.0 | 40.0 ± 10.0 |")
    # Paired: +3, +4, +5 have a spread of 1, though the APs spread by 11.
    assert lines[4].startswith("| PCKA | 24.0 ± 11.0 |") and "| +4.0 ± 1.0 |" in lines[4]
