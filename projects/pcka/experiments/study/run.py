"""One training of a study, and the folder that it leaves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcka.files import read_json, write_json

from .kinds import RunKind

LOG = "train.log"  # in a run's folder: what its process printed
FAILURE = "failure.json"  # there, too: how its process failed
LOG_LINES = 15  # of the end of the log, kept in a failure


@dataclass(frozen=True)
class Run:
    """A config with its overrides and its seed, and the folder of its results.

    Args:
        kind: detector or classifier.
        label: its setting, in words.
        seed: of the run.
        files: of the config.
        opts: KEY VALUE pairs, without seed and folder.
        output_dir: folder of the run.
        teacher: the run that has to be finished first; None for a run that is not taught, or
            taught by a file that is there.
        length: in the unit of the kind's training.
    """

    kind: RunKind
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
        """KEY VALUE pairs with seed and folder."""
        configs = self.kind.configs
        own = (configs.seed_key, str(self.seed), configs.output_key, str(self.output_dir))
        return (*self.opts, *own)

    @property
    def config(self) -> Any:
        return self.kind.configs.read(self.files, self.all_opts)

    @property
    def is_taught(self) -> bool:
        return self.kind.configs.is_taught(self.config)

    @property
    def summary(self) -> dict | None:
        """What the finished run wrote, or None."""
        return read_json(self.output_dir / "summary.json")

    @property
    def results(self) -> dict[str, float]:
        """Figures of the finished run by column; see :meth:`ResultReader.read`."""
        summary = self.summary
        assert summary is not None, f"{self.output_dir} is not finished"
        return self.kind.results.read(summary)

    @property
    def progress(self) -> int:
        done = self.length if self.summary else self.kind.training.progress(self.output_dir)
        return min(done, self.length)

    @property
    def status(self) -> str:
        """``done``, ``failed`` or ``not run``."""
        return "done" if self.summary else "failed" if self.failure else "not run"

    @property
    def failure(self) -> dict | None:
        """``{"exit_status": ..., "log": last lines}`` of this very command, or None."""
        record = read_json(self.output_dir / FAILURE)
        return record if record and record["command"] == self._command else None

    def record_failure(self, exit_status: int) -> None:
        """Keep how the run's process failed in the run's folder."""
        log = (self.output_dir / LOG).read_text(errors="replace").splitlines()
        record = {"command": self._command, "exit_status": exit_status, "log": log[-LOG_LINES:]}
        write_json(self.output_dir / FAILURE, record)

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
