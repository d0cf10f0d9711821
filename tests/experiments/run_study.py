"""Running ``pcka study`` with the kind ``fake``: in this process, or as one of its own."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import fake_kind

from pcka.experiments.study import command, kinds, scheduler, study

HERE = Path(__file__).parent


def study_here(monkeypatch, capsys, path, *more):
    """Run the command and its trainings in this process; return exit status, stdout, stderr."""
    monkeypatch.setitem(kinds.KINDS, "fake", "fake_kind")
    train = partial(scheduler.train_all, start=fake_kind.start_here, pause=0)
    monkeypatch.setattr(command, "run_study", partial(study.run_study, train=train))
    before = signal.getsignal(signal.SIGTERM)
    try:
        status = command.main([str(path), "--jobs", "4", *map(str, more)])
    finally:
        signal.signal(signal.SIGTERM, before)
    out, err = capsys.readouterr()
    return status, out, err


def start(path, *more):
    """Start the command as a process."""
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, __file__, path, "--jobs", "4", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def finish(process):
    """Wait for the process; return exit status, stdout and stderr."""
    out, err = process.communicate()
    return process.returncode, out, err


if __name__ == "__main__":
    kinds.KINDS["fake"] = "fake_kind"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" had it ignored
    sys.exit(command.main())
