"""The runs of a comparison, as processes."""

import os
import shutil
import subprocess
import sys
import time

from tqdm import tqdm

from ..errors import ConfigError
from .runs import Comparison, Run

LOG = "train.log"  # in a run's folder: what its process printed


def train_all(comparison: Comparison, *, jobs: int) -> None:
    """Train what is not trained yet, ``jobs`` runs at a time, showing progress and time left.

    Raises:
        ConfigError: before any run, if one of them cannot start.
        RuntimeError: a run failed; the message holds the end of its log.
    """
    waiting = [run for run in comparison.runs if not _is_done(run)]
    for run in waiting:
        _check(run)
    taught = [run for run in comparison.runs if run.needs_teacher and run not in waiting]
    if comparison.teacher in waiting and taught:
        raise ConfigError(
            f"{taught[0].output_dir} was taught by a teacher that is gone from "
            f"{comparison.teacher.output_dir}: move it away too, or set another --output"
        )
    total = sum(run.length for run in comparison.runs)
    finished = sum(r.length for r in comparison.runs if r not in waiting)
    print(f"{comparison.title}: {len(waiting)} of {len(comparison.runs)} runs to train, "
          f"{jobs} at a time, in {comparison.output_dir}", flush=True)  # fmt: skip
    running: dict[Run, subprocess.Popen] = {}
    started: dict[Run, float] = {}
    interactive = sys.stderr.isatty()
    bar = tqdm(total=total, initial=finished, unit=comparison.task.unit, smoothing=0.05,
               dynamic_ncols=True, mininterval=1 if interactive else 15)  # fmt: skip
    try:
        while waiting or running:
            trained = comparison.teacher.summary is not None
            ready = [run for run in waiting if trained or not run.needs_teacher]
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                running[run], started[run] = _start(run, jobs), time.monotonic()
            time.sleep(1)
            for run, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[run]
                if process.returncode or run.summary is None:
                    raise RuntimeError(_failure(run, process.returncode))
                metric, seconds = run.task.metrics[0], time.monotonic() - started[run]
                bar.write(
                    f"{run.label}, seed {run.seed}: {metric} {run.results[metric]:.1f} in "
                    f"{seconds:.0f} s"
                )
            bar.set_postfix_str(", ".join(r.label for r in running)[:60], refresh=False)
            bar.update(sum(run.progress for run in comparison.runs) - bar.n)
    finally:
        bar.close()
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _is_done(run: Run) -> bool:
    """Whether the run is finished; its folder must then hold this very config."""
    if run.summary is None:
        return False
    changed = run.task.differences(run.output_dir, run.config)
    if changed:
        raise ConfigError(
            f"{run.output_dir} holds a finished run of another config (different: "
            f"{', '.join(changed)}): move it away, or set another --output"
        )
    return True


def _check(run: Run) -> None:
    """The run's own preflight, without what the comparison itself is going to make."""
    folder = run.output_dir
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LOG).is_file():
        raise ConfigError(f"{folder} holds files of something else: set another --output")
    run.task.check(run.config)


def _start(run: Run, jobs: int) -> subprocess.Popen:
    """Start or, if it left a checkpoint, resume a run; its output goes to ``LOG``."""
    resume = (run.output_dir / run.task.checkpoint).is_file()
    if not resume and run.output_dir.exists():
        shutil.rmtree(run.output_dir)  # begun by us and stopped before its first checkpoint
    run.output_dir.mkdir(parents=True, exist_ok=True)
    # Two thread pools on the same cores run several times slower than one thread each.
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    log = open(run.output_dir / LOG, "a")  # noqa: SIM115 - the process owns it
    with log:
        return subprocess.Popen(
            [*run.task.command(run.files, resume=resume), *run.opts],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads, **run.task.environment()},
        )


def _failure(run: Run, code: int) -> str:
    log = run.output_dir / LOG
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    return f"{run.label}, seed {run.seed} failed with exit status {code}; {log} ends:\n{tail}"
