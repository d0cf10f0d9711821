"""The tools with the task ``fake``: ``python run_tool.py TOOL ARGUMENTS``, or by ``start``."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

from pcka.experiments import task

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / "tools"


def start(path, *more, tool="ablate.py"):
    """The tool as a process."""
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, __file__, TOOLS / tool, path, "--jobs", "4", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )  # fmt: skip


def finish(process):
    """-> exit status, stdout and stderr."""
    out, err = process.communicate()
    return process.returncode, out, err


if __name__ == "__main__":
    task.TASKS["fake"] = "fake_task"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" had it ignored
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
