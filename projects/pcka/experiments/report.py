"""Folders of finished runs -> the page that reports them."""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcka.environment import ENVIRONMENT
from pcka.errors import ConfigError

from .comparison_report import table_rows
from .folders import is_comparison, read_comparison, read_run
from .page import Section, Table, html_page
from .run import Run
from .task import Task


@dataclass(frozen=True)
class Reported:
    """What a page is about: students by label, each one run per seed, and who taught them."""

    title: str
    task: Task
    students: dict[str, list[Run]]
    teacher: Run | None = None
    baseline: str | None = None  # the label that the others are compared with
    command: str = ""  # of all runs together

    @property
    def runs(self) -> dict[str, list[Run]]:
        return {**({"teacher": [self.teacher]} if self.teacher else {}), **self.students}


def report_page(folders: Sequence[Path], *, images: int = 6, title: str = "") -> str:
    """The page of a run, of several, or of a comparison, as HTML.

    Args:
        folders: of runs of one kind, or the one folder of a comparison.
        images: how many of them a picture of single images shows.
        title: of the page; "" takes the comparison's, or the runs' names.

    Raises:
        ConfigError: what a folder lacks; or runs that leave no picture at all.
    """
    subject = read_subject(folders)
    pictures = subject.task.sections(subject.students, subject.teacher, images=images)
    if not any(section.parts for section in pictures):
        reasons = [paragraph for section in pictures for paragraph in section.text]
        raise ConfigError("no picture can be drawn of these runs: " + " ".join(reasons))
    sections = [_results(subject), *pictures, *_differences(subject), _provenance(subject)]
    seeds = {run.seed for runs in subject.students.values() for run in runs}
    lead = f"{sum(map(len, subject.runs.values()))} runs, seed"
    lead += f"{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
    return html_page(title or subject.title, sections, lead=lead.replace("1 runs", "1 run", 1))


def read_subject(folders: Sequence[Path]) -> Reported:
    """The runs in these folders, checked.

    Raises:
        ConfigError: see :func:`report_page`.
    """
    folders = [Path(os.path.abspath(folder)) for folder in folders]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder}")
        if len(folders) > 1 and is_comparison(folder):
            raise ConfigError(f"{folder} is a comparison: report it alone, or name runs in it")
    if len(set(folders)) < len(folders):
        raise ConfigError("a folder is named twice")
    if is_comparison(folders[0]):
        found = read_comparison(folders[0])
        command = _command_of(folders[0] / "table.md")
        return Reported(
            found.title, found.task, found.students, found.teacher, found.baseline, command
        )
    common = Path(os.path.commonpath(folders)) if len(folders) > 1 else folders[0].parent
    labels = [folder.relative_to(common).as_posix() for folder in folders]
    runs = [read_run(f, label) for f, label in zip(folders, labels, strict=True)]
    if len({run.task for run in runs}) > 1:
        raise ConfigError("a page is of detectors or of classifiers: report them one by one")
    return Reported(", ".join(labels), runs[0].task, {run.label: [run] for run in runs})


def _command_of(table: Path) -> str:
    """The command in the provenance that a comparison writes below its table."""
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    found = [line for line in lines if line.startswith("Command: `")]
    return found[-1].removeprefix("Command: `").removesuffix("`") if found else ""


def _results(subject: Reported) -> Section:
    results = {
        label: [{"seed": run.seed, **run.results} for run in runs]
        for label, runs in subject.runs.items()
    }
    n = max(len(runs) for runs in subject.students.values())
    text = [subject.task.note(next(iter(subject.runs.values()))[0].config)]
    if subject.baseline is not None:
        over = f"Mean ± sample standard deviation over seeds, n = {n}" if n > 1 else "One seed"
        teacher = "; the teacher is one run." if subject.teacher else "."
        text.insert(0, f"{over}; differences are paired by seed{teacher}")
    rows = table_rows(subject.task, results, subject.baseline)
    return Section("Results", text, [Table(rows, numbers=True)])


def _differences(subject: Reported) -> list[Section]:
    """What the students' configs differ in, seed and folders aside; nothing for one student."""
    task = subject.task
    configs = {label: task.values(runs[0].config) for label, runs in subject.students.items()}
    keys = set().union(*configs.values()) - {task.seed_key, task.output_key}
    rows = [
        [key, *(_shown(values.get(key)) for values in configs.values())] for key in sorted(keys)
    ]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return []
    text = ["The keys whose values are not the same in all students; a dash: not set, or empty."]
    return [Section("Config differences", text, [Table([["key", *configs], *rows])])]


def _shown(value: Any) -> str:
    if value is None or value == "" or value == []:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _provenance(subject: Reported) -> Section:
    """Commands, and on what the runs ran, as far as they recorded it."""
    notes: dict[str, list[str]] = {}
    for label, runs in subject.runs.items():
        for run in runs:
            path = run.output_dir / ENVIRONMENT
            found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if not subject.command and "command" in found:
                notes.setdefault(f"command ({label})", []).append(shlex.join(found["command"]))
            changed = " with changes" if found.get("git_changes") else ""
            git = found.get("git")
            notes.setdefault("git revision", []).append(git + changed if git else "not recorded")
            for key in ("torch", "torchvision", "python"):
                notes.setdefault(key, []).append(found.get(key, "not recorded"))
            device = found.get("device") or run.summary.get("device", "not recorded")
            notes.setdefault("device", []).append(device)
            notes.setdefault("folders", []).append(str(run.output_dir))
    rows = [["command", subject.command]] if subject.command else []
    rows += [[key, ", ".join(dict.fromkeys(values))] for key, values in notes.items()]
    return Section("Provenance", (), [Table([["what", "value"], *rows])])
