"""Runs of a study as jobs of a cluster, submitted by submitit (an optional extra)."""

import importlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pcka.errors import ConfigError

from .run import FAILURE, LOG, Run
from .scheduler import Process

# Names of ``--executor`` -> submitit's name of the cluster. ``local`` runs jobs on this machine.
EXECUTORS = {"slurm": "slurm", "local": "local"}
_SECONDS = 1.0  # between two looks at a job that is waited for
# A job is one process; what a cluster wants besides (partition, GPUs, time) is given.
_DEFAULTS = {"tasks_per_node": "1", "name": "pcka"}


class RunCommand:
    """The work of a job: train, or go on from the run's checkpoint if there is one.

    Args:
        fresh, resumed: the commands for both.
        checkpoint_file: the run's checkpoint.
        log: the file that takes the output.
        folder: where the command runs.
    """

    def __init__(
        self, fresh: list[str], resumed: list[str], checkpoint_file: Path, log: Path, folder: str
    ):
        self.fresh, self.resumed = fresh, resumed
        self.checkpoint_file, self.log, self.folder = checkpoint_file, log, folder

    def __call__(self) -> int:
        """Return the exit status of the training."""
        command = self.resumed if self.checkpoint_file.is_file() else self.fresh
        with open(self.log, "a") as log:
            return subprocess.call(command, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder)

    def checkpoint(self) -> Any:
        """Return what submitit submits again where the job's time is over or it is preempted."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self)


class Job:
    """A submitted job, as the scheduler looks at it.

    Args:
        job: submitit's.
    """

    def __init__(self, job: Any):
        self.job = job
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None while the job waits or runs."""
        if self.returncode is None and self.job.done():
            try:
                self.returncode = int(self.job.result())
            except Exception:  # submitit's errors for jobs that were cancelled or lost
                self.returncode = 1
        return self.returncode

    def terminate(self) -> None:
        self.job.cancel()

    def kill(self) -> None:
        self.job.cancel()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raise TimeoutExpired after ``timeout`` seconds."""
        end = time.monotonic() + timeout if timeout is not None else None
        while (status := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("job", timeout or 0)
            time.sleep(_SECONDS)
        return status


def job_starter(
    executor: str, folder: Path, parameters: Mapping[str, str]
) -> Callable[[Run, int], Process | None]:
    """Return what starts a run as a job.

    Args:
        executor: a name of ``EXECUTORS``.
        folder: the folder of submitit's own files.
        parameters: the arguments of submitit's ``AutoExecutor.update_parameters``, such as
            ``timeout_min``.

    Raises:
        ConfigError: submitit is missing, or does not know the cluster or a parameter.
    """
    try:
        submitit = importlib.import_module("submitit")
    except ImportError as error:
        raise ConfigError(
            f"--executor {executor} needs submitit: pip install 'pcka[cluster]'"
        ) from error
    try:
        jobs = submitit.AutoExecutor(folder=str(folder / "jobs"), cluster=EXECUTORS[executor])
        jobs.update_parameters(**{k: _number(v) for k, v in {**_DEFAULTS, **parameters}.items()})
    except Exception as error:  # submitit has no error of its own for this
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(f"--executor {executor}: {reason}") from error

    def start(run: Run, _: int) -> Process:
        run.output_dir.mkdir(parents=True, exist_ok=True)
        (run.output_dir / FAILURE).unlink(missing_ok=True)
        training = run.kind.training
        fresh, resumed = (
            [*training.command(run.files, resume=resume), *run.all_opts] for resume in (False, True)
        )
        log, checkpoint = run.output_dir / LOG, run.output_dir / training.checkpoint
        log.touch()
        work = RunCommand(fresh, resumed, checkpoint.resolve(), log.resolve(), os.getcwd())
        return Job(jobs.submit(work))

    return start


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def read_parameters(words: list[str]) -> dict[str, str]:
    """Read ``KEY=VALUE`` words; raise ConfigError for others."""
    for word in words:
        if "=" not in word:
            raise ConfigError(f"--job takes KEY=VALUE, such as timeout_min=60, not {word!r}")
    return dict(word.split("=", 1) for word in words)
