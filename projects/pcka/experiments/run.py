"""One training, and the folder that it leaves."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .task import Task

LOG = "train.log"  # in a run's folder: what its process printed
FAILURE = "failure.json"  # there, too: how its process failed
TAIL = 15  # lines of the log that a failure keeps


@dataclass(frozen=True)
class Run:
    """A config with its overrides and its seed, and where the results go.

    Args:
        opts: KEY VALUE pairs, seed and folder aside.
        teacher: the run that has to be finished first, or None: the run is not taught, or by a
            file that is there.
        length: in ``task.unit``.
    """

    task: Task
    label: str
    seed: int
    files: tuple[str, ...]
    opts: tuple[str, ...]
    output_dir: Path
    teacher: "Run | None"
    length: int

    @property
    def title(self) -> str:
        return f"{self.label}, seed {self.seed}"

    @property
    def all_opts(self) -> tuple[str, ...]:
        task = self.task
        return (*self.opts, task.seed_key, str(self.seed), task.output_key, str(self.output_dir))

    @property
    def config(self) -> Any:
        return self.task.load(self.files, self.all_opts)

    @property
    def summary(self) -> dict | None:
        """What the finished run wrote, or None."""
        return _read_json(self.output_dir / "summary.json")

    @property
    def results(self) -> dict[str, float]:
        """Of the finished run; see ``Task.results``."""
        return self.task.results(self.summary)

    @property
    def progress(self) -> int:
        done = self.length if self.summary else self.task.progress(self.output_dir)
        return min(done, self.length)

    @property
    def status(self) -> str:
        """``done``, ``failed`` or ``not run``."""
        return "done" if self.summary else "failed" if self.failure else "not run"

    @property
    def failure(self) -> dict | None:
        """``{"exit_status": ..., "log": last lines}`` of this very command, or None."""
        record = _read_json(self.output_dir / FAILURE)
        return record if record and record["command"] == self._command else None

    def record_failure(self, exit_status: int) -> None:
        log = (self.output_dir / LOG).read_text(errors="replace").splitlines()
        record = {"command": self._command, "exit_status": exit_status, "log": log[-TAIL:]}
        part = self.output_dir / f"{FAILURE}.part"  # whole, or not at all
        part.write_text(json.dumps(record, indent=2) + "\n")
        part.replace(self.output_dir / FAILURE)

    @property
    def failure_text(self) -> str:
        """Why there are no results, in words."""
        if not (failure := self.failure):
            return f"{self.title}: not run" + (", its teacher failed" if self.teacher else "")
        return (
            f"{self.title} failed with exit status {failure['exit_status']}; "
            f"{self.output_dir / LOG} ends:\n" + "\n".join(failure["log"])
        )

    @property
    def _command(self) -> list[str]:
        return [*self.files, *self.all_opts]


def _read_json(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.is_file() else None
