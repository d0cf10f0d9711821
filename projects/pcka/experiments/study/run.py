"""One training of a study, and its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcka.errors import ConfigError
from pcka.files import read_json, write_json

from .kinds import RunKind

LOG = "train.log"  # in a run's folder: the output of its process
FAILURE = "failure.json"  # in a run's folder: how its process failed
LOG_LINES = 15  # lines of the end of the log that a failure keeps


@dataclass(frozen=True)
class Run:
    """A config with its overrides and its seed, and the folder of its results.

    Args:
        kind: detector or classifier.
        label: the setting of the run, in words.
        seed: the seed of the run.
        files: the files of its config.
        opts: KEY VALUE pairs, without seed and folder.
        output_dir: the folder of the run.
        teacher: the run that has to be finished first; None for a run without a teacher, or whose
            teacher is a file of trained weights.
        length: the length of the run in the unit of the kind's training.
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
        """The KEY VALUE pairs of the run, with seed and folder."""
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
        """The summary that the finished run wrote, or None."""
        path = self.output_dir / "summary.json"
        found = read_json(path)
        if not isinstance(found, dict | None):
            raise ConfigError(f"{path} is no summary of a run: remove it, and --resume the run")
        return found

    @property
    def results(self) -> dict[str, float]:
        """The figures of the finished run by column; see :meth:`ResultReader.read`."""
        summary = self.summary
        assert summary is not None, f"{self.output_dir} is not finished"
        try:
            return self.kind.results.read(summary)
        except (LookupError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{self.output_dir / 'summary.json'} is no summary of such a run "
                f"({type(error).__name__}: {error}): remove it, and --resume the run"
            ) from error

    @property
    def progress(self) -> int:
        done = self.length if self.summary else self.kind.training.progress(self.output_dir)
        return min(done, self.length)

    @property
    def status(self) -> str:
        """The state of the run: ``done``, ``failed`` or ``not run``."""
        return "done" if self.summary else "failed" if self.failure else "not run"

    @property
    def failure(self) -> dict | None:
        """The failure ``{"exit_status": ..., "log": last lines}`` of this command, or None."""
        record = read_json(self.output_dir / FAILURE)
        same = isinstance(record, dict) and record.get("command") == self._command
        return record if same else None

    def record_failure(self, exit_status: int) -> None:
        """Record in the run's folder how its process failed."""
        log = (self.output_dir / LOG).read_text(errors="replace").splitlines()
        record = {"command": self._command, "exit_status": exit_status, "log": log[-LOG_LINES:]}
        write_json(self.output_dir / FAILURE, record)

    @property
    def failure_text(self) -> str:
        """Return the reason why there are no results, in words."""
        if not (failure := self.failure):
            return f"{self.title}: not run" + (", its teacher failed" if self.teacher else "")
        return (
            f"{self.title} failed with exit status {failure['exit_status']}; "
            f"{self.output_dir / LOG} ends:\n" + "\n".join(failure["log"])
        )

    @property
    def _command(self) -> list[str]:
        return [*self.files, *self.all_opts]
