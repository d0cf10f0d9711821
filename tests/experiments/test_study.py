"""The command ``pcka study``: training, choosing, reporting, and keeping finished runs."""

import csv
import json
import os
import signal
import time

import pytest
from run_study import finish, start, study_here


@pytest.fixture
def study(monkeypatch, capsys):
    """Return ``study(path, *more)``, which trains in this process and returns status and output."""

    def study(path, *more):
        return study_here(monkeypatch, capsys, path, *more)

    return study


def read(folder, **where):
    with (folder / "runs.csv").open() as file:
        found = list(csv.DictReader(file))
    return [row for row in found if all(row[key] == value for key, value in where.items())]


def finished(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("summary.json")}


def wait_for(path):
    end = time.monotonic() + 120  # enough for a busy machine
    while not path.exists():
        assert time.monotonic() < end, f"there is no {path}"
        time.sleep(0.05)


def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_whole_study(study, content, write, tmp_path):
    out = tmp_path / "out"
    status, stdout, stderr = study(write(content))
    assert status == 0, stdout + stderr
    # The best weight on the seeds and images of the tuning is 3; on those of the report it is 10.
    assert {row["tuned"] for row in read(out, stage="report", kind="b")} == {"3"}
    assert len(read(out, stage="tuning")) == 6 and len(read(out, stage="report")) == 12
    assert not (out / "report" / "grid__kind_b" / "10" / "seed1").exists()
    [row] = read(out, stage="report", setting="grid, kind=b", seed="2")
    assert list(row)[:6] == ["stage", "setting", "kind", "tuned", "seed", "status"]
    summary = out / "report" / "grid__kind_b" / "3" / "seed2" / "summary.json"
    assert float(row["score"]) == json.loads(summary.read_text())["score"]
    table, tuning = (out / "table.md").read_text().split("## Tuning")
    # The difference from the base (weight 1) is ln(10 / 1) - ln(10 / 3) = 1.0986 by the weight and
    # 8, 4, 8 by kind b. The mean is 7.765, std 2.309, t 4.303 and n 3, so the interval is +- 5.737.
    assert "| +7.77 [+2.03, +13.50] | weight 3 of 1, 3, 10 |" in table
    assert "| alone | 19.70 ± 1.00 | 7.00 ± 0.00 | 3 |  |  | 1.50 M | 2 |" in table
    assert "| grid, kind=b | weight 3 | 129.00 | 1 | chosen |" in tuning and "129.00" not in table
    assert (out / "figure.png").read_bytes()[:4] == b"\x89PNG"
    # A second call keeps everything. If one run is lost, the next call trains that run alone.
    before = finished(out)
    summary.unlink()
    (summary.parent / "checkpoint").unlink()
    status, stdout, _ = study(write(content))
    assert status == 0 and "0 of 7 runs to train" in stdout and "1 of 12 runs to train" in stdout
    changed = {path for path, mtime in finished(out).items() if before[path] != mtime}
    assert changed == {summary}
    # A run of another config in the same folder is not taken for this one.
    status, _, stderr = study(write(content), "steps", "3")
    assert status == 2 and "holds a run of another config (different: steps)" in stderr


def test_failures_are_recorded_and_skipped(study, content, write, tmp_path):
    out, cure = tmp_path / "out", tmp_path / "cure"
    content["STUDENTS"][1]["OPTS"] += ["fails", [2], "unless", str(cure)]
    content["STUDENTS"].pop()
    path = write(content)
    status, _, stderr = study(path)
    assert status == 1 and "1 runs have no results" in stderr and "BOOM" in stderr
    assert [row["seed"] for row in read(out, status="failed")] == ["2"]
    assert len(read(out, status="done")) == 6
    table = (out / "table.md").read_text()
    assert "fixed, seed 2 failed with exit status 3" in table and "      BOOM" in table
    # Kind a gains 2 with odd seeds: seeds 1 and 3 differ by 2.00 each, and seed 2 has no pair.
    assert "| fixed | 22.00 ± 1.41" not in table and "| 2 | +2.00 [+2.00, +2.00] |" in table
    cure.touch()
    status, stdout, _ = study(path, "--skip-failed")
    assert status == 1 and "0 of 7 runs to train" in stdout
    status, stdout, _ = study(path)
    assert status == 0 and "1 of 7 runs to train" in stdout
    assert "Runs without results" not in (out / "table.md").read_text()


def test_a_value_that_failed_is_not_chosen(study, content, write, tmp_path):
    grid = content["STUDENTS"].pop()
    grid["AXES"] = {}
    values = {"one": ["weight", 1], "three": ["weight", 3, "fails", [102]]}
    grid["TUNE"] = {"VALUES": values}
    content["TUNING"]["SEEDS"] = [101, 102]
    content["STUDENTS"] = [content["STUDENTS"][0], grid]
    status, _, _ = study(write(content))
    assert status == 1
    assert {row["tuned"] for row in read(tmp_path / "out", stage="report", setting="grid")} == {
        "one"
    }
    # If all runs of a setting fail, it is not reported; the others are.
    values["one"] += ["fails", [101]]
    status, _, _ = study(write(content), "--output", str(tmp_path / "other"))
    table = (tmp_path / "other" / "table.md").read_text()
    assert status == 1 and "nothing: no weight and fails of one, three finished tuning" in table
    assert len(read(tmp_path / "other", stage="report")) == 3  # the base


def test_a_teacher_that_fails_takes_its_students_along(study, content, write, tmp_path):
    content["TEACHER"]["OPTS"] = ["fails", [0]]
    content["STUDENTS"].pop()
    status, _, stderr = study(write(content))
    assert status == 1 and "4 runs have no results" in stderr
    assert "fixed, seed 1: not run, its teacher failed" in (tmp_path / "out/table.md").read_text()
    assert len(read(tmp_path / "out", stage="report", setting="alone", status="done")) == 3


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_and_resumed(study, content, write, tmp_path, how):
    content["STUDENTS"].pop()
    content["SEEDS"] = [1]
    content["STUDENTS"][0]["OPTS"] = ["steps", 6, "seconds", 1]
    path, out = write(content), tmp_path / "out"
    folder = out / "report" / "alone" / "seed1"
    process = start(path)
    wait_for(folder / "checkpoint")
    process.send_signal(how)
    status, _, stderr = finish(process)
    if how != signal.SIGKILL:
        assert status == 130 and stderr.endswith("the same command continues from here\n")
    # The run ends with the command, even if the command had no time to stop it.
    pid = int((folder / "pid").read_text())
    end = time.monotonic() + 20
    while lives(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not lives(pid)
    assert not (folder / "summary.json").exists() and not (folder / "failure.json").exists()
    # Another config does not continue a half-finished run.
    status, _, stderr = study(path, "kind", "b")
    assert status == 2 and "holds a run of another config (different: kind)" in stderr
    status, _, stderr = study(path)
    assert status == 0, stderr
    assert (folder / "checkpoint").read_text().split() == ["1", "2", "3", "4", "5", "6"]


def test_ready_made_teacher(study, content, write, tmp_path):
    content.pop("TEACHER")
    content["STUDENTS"].pop()
    path = write(content)
    status, _, stderr = study(path)
    assert status == 2 and "fixed: no teacher at ''" in stderr and not (tmp_path / "out").exists()
    (tmp_path / "teacher").write_text("taught")
    status, _, stderr = study(path, "teacher", str(tmp_path / "teacher"))
    assert status == 0, stderr
    assert not read(tmp_path / "out", stage="teacher")
    assert "The teacher is one run" not in (tmp_path / "out" / "table.md").read_text()


def test_a_study_without_tuning(study, content, write, tmp_path):
    (tmp_path / "teacher").write_text("taught")
    plain = {key: content[key] for key in ("TASK", "OUTPUT_DIR")}
    plain["STUDENTS"] = content["STUDENTS"][:2]
    teacher = ("teacher", str(tmp_path / "teacher"))
    status, stdout, stderr = study(write(plain), *teacher)
    assert status == 0, stderr
    assert "| fixed |" in stdout and "teacher" not in stdout.split("\n| ")[1]
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())) == ["alone", "fixed"]
    assert (tmp_path / "out" / "fixed" / "seed1" / "summary.json").is_file()
    plain["TEACHER"] = content["TEACHER"]
    status, _, stderr = study(write(plain), *teacher)
    assert status == 2 and "teacher names another: drop one of them" in stderr


def test_stopped_after_some_minutes(study, content, write, tmp_path):
    status, stdout, stderr = study(write(content), "--minutes", "0")
    assert status == 3 and "runs are left" in stdout, stderr
    status, _, stderr = study(write(content))
    assert status == 0, stderr


@pytest.mark.slow
def test_as_a_command(content, write, tmp_path):
    status, stdout, stderr = finish(start(write(content)))
    assert status == 0, stderr
    assert "| grid, kind=b |" in stdout and len(read(tmp_path / "out", stage="report")) == 12
