"""Runs as jobs of a cluster: submitit's local executor stands for one."""

import subprocess
import sys
from pathlib import Path

import pytest

from pcka.errors import ConfigError
from pcka.experiments.study import cluster
from pcka.experiments.study.cluster import Job, RunCommand, job_starter, read_parameters


def python(code):
    return [sys.executable, "-c", code]


def test_a_job_goes_on_from_its_checkpoint(tmp_path):
    log, checkpoint = tmp_path / "train.log", tmp_path / "checkpoint.pth"
    work = RunCommand(
        python("print('fresh')"), python("print('resumed'); exit(3)"), checkpoint, log, "."
    )
    assert work() == 0
    checkpoint.touch()
    assert work() == 3
    assert log.read_text().split() == ["fresh", "resumed"]


class FakeJob:
    def __init__(self, results):
        self.results, self.cancelled = list(results), False

    def done(self):
        return self.results[0] is not None or bool(self.results.pop(0))

    def result(self):
        if isinstance(self.results[0], Exception):
            raise self.results[0]
        return self.results[0]

    def cancel(self):
        self.cancelled = True


def test_what_the_scheduler_sees_of_a_job(monkeypatch):
    monkeypatch.setattr(cluster, "_SECONDS", 0.001)
    job = Job(FakeJob([None, None, 0]))
    assert job.poll() is None and job.wait() == 0 and job.returncode == 0
    lost = Job(FakeJob([RuntimeError("cancelled")]))
    assert lost.poll() == 1
    waiting = Job(FakeJob([None] * 1000))
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.01)
    waiting.terminate()
    assert waiting.job.cancelled


def test_parameters():
    assert read_parameters(["timeout_min=60", "slurm_constraint=a=b"]) == {
        "timeout_min": "60",
        "slurm_constraint": "a=b",
    }
    with pytest.raises(ConfigError, match=r"--job takes KEY=VALUE, such as .*, not 'gpu'"):
        read_parameters(["gpu"])


def test_without_submitit(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"needs submitit: pip install 'pcka\[cluster\]'"):
        job_starter("slurm", tmp_path, {})


def test_a_parameter_that_submitit_does_not_know(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match=r"--executor local: .*colour"):
        job_starter("local", tmp_path, {"colour": "red"})


class _Training:
    checkpoint = "checkpoint.pth"

    def command(self, files, *, resume):
        return python("import sys; print('trained', *sys.argv[1:])")


class _Kind:
    training = _Training()


class _Run:
    kind, files, all_opts = _Kind(), (), ("seed", "3")

    def __init__(self, output_dir):
        self.output_dir = Path(output_dir)


@pytest.mark.slow
def test_a_run_is_a_job_of_the_local_executor(tmp_path):
    pytest.importorskip("submitit")
    start = job_starter("local", tmp_path, {"timeout_min": "2"})
    run = _Run(tmp_path / "run")
    job = start(run, 1)
    assert job.wait(60) == 0
    assert (run.output_dir / "train.log").read_text().split() == ["trained", "seed", "3"]
