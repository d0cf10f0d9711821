"""Runs as processes, several at a time: finished runs are kept, stopped runs continue."""

import fcntl
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO, Protocol

from tqdm import tqdm

from pcka.cli import PARENT
from pcka.errors import ConfigError

from .run import FAILURE, LOG, Run

_STOP_SECONDS = 30  # the time that a run has to stop before it is killed


class Process(Protocol):
    """The interface of a started run for the scheduler; ``subprocess.Popen`` has it."""

    returncode: int | None

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


# Starts a run; returns None if another process is training it already.
Start = Callable[[Run, int], Process | None]


def check_runs(runs: Sequence[Run]) -> None:
    """Raise ConfigError if a run cannot start, or its folder holds something else."""
    checked = set()
    for run in runs:
        training, folder = run.kind.training, run.output_dir
        if run.summary is not None or (folder / training.checkpoint).is_file():
            _check_same(run)
        if run.summary is not None:
            continue
        if folder.is_dir() and any(folder.iterdir()) and not (folder / LOG).is_file():
            raise ConfigError(f"{folder} holds files that are not of a study: set another --output")
        if (run.files, run.opts) not in checked:  # seeds share one check
            checked.add((run.files, run.opts))
            try:
                training.check(run.config, teacher=run.teacher is None)
            except ConfigError as error:
                raise ConfigError(f"{run.label}: {error}") from error


def start_process(run: Run, jobs: int) -> subprocess.Popen | None:
    """Start a run, or resume it from its checkpoint; None if another process is training it."""
    run.output_dir.mkdir(parents=True, exist_ok=True)
    with open(run.output_dir / LOG, "a") as log:
        if not _lock(log):
            return None
        resume = (run.output_dir / run.kind.training.checkpoint).is_file()
        if resume:
            (run.output_dir / FAILURE).unlink(missing_ok=True)
        else:
            log.truncate(0)
            _clear(run)
        # Two thread pools on the same cores are several times slower than one thread each.
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
        return subprocess.Popen(
            [*run.kind.training.command(run.files, resume=resume), *run.all_opts],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads, PARENT: str(os.getpid())},
        )


def train_all(
    runs: Sequence[Run],
    *,
    title: str,
    jobs: int,
    retry_failed: bool,
    until: float = math.inf,
    later: int = 0,
    start: Start = start_process,
    pause: float = 0.2,
) -> list[Run]:
    """Train the runs that are not finished, ``jobs`` at a time, showing progress and time left.

    A failure is recorded in the run's folder. The run is then skipped, and so are runs with it as
    their teacher; all others go on. If another process trains a run, the scheduler waits for it.

    Args:
        runs: the runs, finished or not.
        title: a title of these runs, for the first line.
        jobs: the number of runs at a time.
        retry_failed: whether to run failed runs again.
        until: the monotonic time in seconds at which runs are stopped.
        later: the length of the work that comes after this, for the time left.
        start: starts one run.
        pause: the seconds between two looks at the processes.

    Returns:
        The runs without results.
    """
    waiting = [r for r in runs if r.summary is None and (retry_failed or r.failure is None)]
    finished = sum(run.length for run in runs if run not in waiting)
    print(f"{title}: {len(waiting)} of {len(runs)} runs to train, {jobs} at a time", flush=True)
    running: dict[Run, Process] = {}
    shown = time.monotonic()
    bar = tqdm(
        total=sum(run.length for run in runs) + later,
        initial=finished,
        unit=runs[0].kind.training.unit if runs else "it",
        smoothing=0.05,
        dynamic_ncols=True,
        mininterval=1 if sys.stderr.isatty() else 15,
    )
    try:
        while (waiting or running) and time.monotonic() < until:
            for run in list(waiting):
                to_come = run.teacher in waiting or run.teacher in running
                if run.summary is not None or not (to_come or _has_teacher(run)):
                    waiting.remove(run)
                    finished += run.length
                elif not to_come and len(running) < jobs and (process := start(run, jobs)):
                    waiting.remove(run)
                    running[run] = process
            time.sleep(pause)
            for run, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[run]
                finished += run.length
                if run.summary is None:
                    run.record_failure(process.returncode or 0)
                    tqdm.write(run.failure_text)
            if time.monotonic() < shown + 1:
                continue
            shown = time.monotonic()
            bar.set_postfix_str(", ".join(r.title for r in running)[:60], refresh=False)
            bar.update(finished + sum(run.progress for run in running) - bar.n)
    finally:
        bar.close()
        _stop(list(running.values()))
    return [run for run in runs if run.summary is None]


def _stop(processes: Sequence[Process]) -> None:
    # SIGTERM and not SIGINT, which a job in the background of a shell ignores.
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _has_teacher(run: Run) -> bool:
    return run.teacher is None or run.teacher.summary is not None


def _check_same(run: Run) -> None:
    """Raise ConfigError unless the run's folder belongs to this very config and teacher."""
    if run.teacher is not None and run.teacher.summary is None:
        raise ConfigError(
            f"{run.output_dir} was taught by a teacher that is no longer in "
            f"{run.teacher.output_dir}: move this run away as well, or set another --output"
        )
    configs = run.kind.configs
    changed = configs.differences(run.output_dir, run.config)
    if not run.is_taught:  # a student alone does not depend on the teacher
        changed = [key for key in changed if key != configs.teacher_key]
    if changed:
        raise ConfigError(
            f"{run.output_dir} holds a run of another config (different: {', '.join(changed)}): "
            "move it away, or set another --output"
        )


def _lock(log: IO) -> bool:
    """Lock the log of a run; return whether it was free.

    The process that writes the log inherits the lock, and holds it until it ends even if this
    process is killed before.
    """
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(run: Run) -> None:
    """Remove the files of a run of ours that stopped before its first checkpoint."""
    for path in run.output_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOG:
            path.unlink()
