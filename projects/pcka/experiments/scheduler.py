"""Runs as processes, several at a time: finished ones are kept, stopped ones go on."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

from tqdm import tqdm

from pcka.errors import ConfigError

from .run import FAILURE, LOG, Run


def check_runs(runs: Sequence[Run]) -> None:
    """Raise ConfigError if a run cannot start, or its folder holds something else."""
    checked = set()
    for run in runs:
        if run.summary is not None or (run.output_dir / run.task.checkpoint).is_file():
            _check_same(run)
        if run.summary is not None:
            continue
        folder = run.output_dir
        if folder.is_dir() and any(folder.iterdir()) and not (folder / LOG).is_file():
            raise ConfigError(f"{folder} holds files of something else: set another --output")
        if (run.files, run.opts) not in checked:  # seeds do not matter
            checked.add((run.files, run.opts))
            try:
                run.task.check(run.config, teacher=run.teacher is None)
            except ConfigError as error:
                raise ConfigError(f"{run.label}: {error}") from error


def train_all(
    runs: Sequence[Run], *, title: str, jobs: int, retry_failed: bool, later: int = 0
) -> list[Run]:
    """Train what is not trained yet, ``jobs`` runs at a time, showing progress and time left.

    A run that fails is recorded in its folder, and the others go on; it is skipped from then on,
    with the runs that it was to teach. Another process's run is waited for.

    Args:
        retry_failed: run again what has failed before.
        later: length of the work that comes after this, for the time left.

    Returns:
        The runs without results.
    """
    waiting = [r for r in runs if r.summary is None and (retry_failed or r.failure is None)]
    finished = sum(run.length for run in runs if run not in waiting)
    print(f"{title}: {len(waiting)} of {len(runs)} runs to train, {jobs} at a time", flush=True)
    running: dict[Run, subprocess.Popen] = {}
    shown = time.monotonic()
    bar = tqdm(
        total=sum(run.length for run in runs) + later,
        initial=finished,
        unit=runs[0].task.unit if runs else "it",
        smoothing=0.05,
        dynamic_ncols=True,
        mininterval=1 if sys.stderr.isatty() else 15,
    )
    try:
        while waiting or running:
            for run in list(waiting):
                to_come = run.teacher in waiting or run.teacher in running
                if run.summary is not None or not (to_come or _is_taught(run)):
                    waiting.remove(run)
                    finished += run.length
                elif not to_come and len(running) < jobs and (process := _start(run, jobs)):
                    waiting.remove(run)
                    running[run] = process
            time.sleep(0.2)
            for run, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[run]
                finished += run.length
                if run.summary is None:
                    run.record_failure(process.returncode)
                    tqdm.write(run.failure_text)
            if time.monotonic() < shown + 1:
                continue
            shown = time.monotonic()
            bar.set_postfix_str(", ".join(r.title for r in running)[:60], refresh=False)
            bar.update(finished + sum(run.progress for run in running) - bar.n)
    finally:
        bar.close()
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return [run for run in runs if run.summary is None]


def _is_taught(run: Run) -> bool:
    return run.teacher is None or run.teacher.summary is not None


def _check_same(run: Run) -> None:
    """What was trained in the run's folder must be of this very config, and this very teacher."""
    if not _is_taught(run):
        raise ConfigError(
            f"{run.output_dir} was taught by a teacher that is gone from "
            f"{run.teacher.output_dir}: move it away too, or set another --output"
        )
    cfg = run.config
    changed = run.task.differences(run.output_dir, cfg)
    if not run.task.needs_teacher(cfg):  # a student alone does not care who does not teach it
        changed = [key for key in changed if key != run.task.teacher_key]
    if changed:
        raise ConfigError(
            f"{run.output_dir} holds a run of another config (different: {', '.join(changed)}): "
            "move it away, or set another --output"
        )


def _start(run: Run, jobs: int) -> subprocess.Popen | None:
    """Start or, if it left a checkpoint, resume a run; None if a process is at it already."""
    run.output_dir.mkdir(parents=True, exist_ok=True)
    with open(run.output_dir / LOG, "a") as log:
        if not _lock(log):
            return None
        resume = (run.output_dir / run.task.checkpoint).is_file()
        if resume:
            (run.output_dir / FAILURE).unlink(missing_ok=True)
        else:
            log.truncate(0)
            _clear(run)
        # Two thread pools on the same cores run several times slower than one thread each.
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
        return subprocess.Popen(
            [*run.task.command(run.files, resume=resume), *run.all_opts],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads, **run.task.environment()},
        )


def _lock(log: IO) -> bool:
    """Whether the log was free. The process that writes it inherits the lock, and holds it until it
    ends even if this one is killed before."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(run: Run) -> None:
    """Remove what a run of ours left that stopped before its first checkpoint."""
    for path in run.output_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOG:
            path.unlink()
