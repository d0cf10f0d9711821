"""The page that reports finished runs."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcka.environment import ENVIRONMENT
from pcka.errors import ConfigError
from pcka.experiments.finished_runs import FinishedRuns, is_study, read_run, read_study
from pcka.experiments.study.kinds import drawing_of
from pcka.experiments.study.report import notes_on_seeds, results_table
from pcka.files import read_json

from .html import Section, Table, html_page


def report_page(folders: Sequence[Path], *, images: int = 6, title: str = "") -> str:
    """Return the page of a run, of several, or of a study, as HTML.

    Args:
        folders: folders of runs of one kind, or the one folder of a study.
        images: how many images a picture of single images shows.
        title: the title of the page; "" takes that of the study, or the names of the runs.

    Raises:
        ConfigError: a folder is incomplete, or no picture can be drawn of the runs.
    """
    subject = read_subject(folders)
    drawing = drawing_of(subject.kind)
    pictures = drawing.page_sections(subject.students, subject.teacher, images=images)
    if not any(section.parts for section in pictures):
        reasons = [paragraph for section in pictures for paragraph in section.text]
        raise ConfigError("no picture can be drawn of these runs: " + " ".join(reasons))
    sections = [_results(subject), *pictures, *_differences(subject), _provenance(subject)]
    seeds = {run.seed for runs in subject.students.values() for run in runs}
    count = sum(map(len, subject.runs.values()))
    lead = f"{count} run{'s' if count > 1 else ''}, seed{'s' if len(seeds) > 1 else ''} "
    lead += ", ".join(map(str, sorted(seeds)))
    return html_page(title or subject.title, sections, lead=lead)


def read_subject(folders: Sequence[Path]) -> FinishedRuns:
    """Read the runs in these folders, and check that they fit on one page.

    Raises:
        ConfigError: see :func:`report_page`.
    """
    folders = [Path(os.path.abspath(folder)) for folder in folders]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder}")
        if len(folders) > 1 and is_study(folder):
            raise ConfigError(f"{folder} is a study: report it alone, or name runs in it")
    if len(set(folders)) < len(folders):
        raise ConfigError("a folder is named twice")
    if is_study(folders[0]):
        return read_study(folders[0])
    common = Path(os.path.commonpath(folders)) if len(folders) > 1 else folders[0].parent
    labels = [folder.relative_to(common).as_posix() for folder in folders]
    runs = [read_run(f, label) for f, label in zip(folders, labels, strict=True)]
    if len({run.kind for run in runs}) > 1:
        raise ConfigError("a page shows detectors or classifiers, not both: report them apart")
    return FinishedRuns(", ".join(labels), runs[0].kind, {run.label: [run] for run in runs})


def _results(subject: FinishedRuns) -> Section:
    results = {
        label: [{"seed": run.seed, **run.results} for run in runs]
        for label, runs in subject.runs.items()
    }
    reader = subject.kind.results
    text = [reader.note(next(iter(subject.runs.values()))[0].config)]
    if subject.base is not None:
        longest = max(subject.students.values(), key=len)
        text.insert(0, notes_on_seeds(run.seed for run in longest))
    rows = results_table(results, reader, subject.base, {})
    return Section("Results", text, [Table(rows, numbers=True)])


def _differences(subject: FinishedRuns) -> list[Section]:
    """Show the differences between the students' configs, without seed and folders."""
    reader = subject.kind.configs
    configs = {label: reader.values(runs[0].config) for label, runs in subject.students.items()}
    keys = set().union(*configs.values()) - {reader.seed_key, reader.output_key}
    rows = [
        [key, *(_shown(values.get(key)) for values in configs.values())] for key in sorted(keys)
    ]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return []
    text = ["The keys whose values differ between students. A dash means not set, or empty."]
    return [Section("Config differences", text, [Table([["key", *configs], *rows])])]


def _shown(value: Any) -> str:
    if value is None or value == "" or value == []:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _provenance(subject: FinishedRuns) -> Section:
    """Show the commands and the machines of the runs, as far as they recorded them."""
    notes: dict[str, list[str]] = {}
    for label, runs in subject.runs.items():
        for run in runs:
            found = _recorded(run.output_dir / ENVIRONMENT)
            if not subject.command and "command" in found:
                notes.setdefault(f"command ({label})", []).append(shlex.join(found["command"]))
            changed = " with changes" if found.get("git_changes") else ""
            git = found.get("git")
            notes.setdefault("git revision", []).append(git + changed if git else "not recorded")
            for key in ("torch", "torchvision", "python"):
                notes.setdefault(key, []).append(found.get(key, "not recorded"))
            device = found.get("device") or (run.summary or {}).get("device", "not recorded")
            notes.setdefault("device", []).append(device)
            notes.setdefault("folders", []).append(str(run.output_dir))
    rows = [["command", subject.command]] if subject.command else []
    rows += [[key, ", ".join(dict.fromkeys(values))] for key, values in notes.items()]
    return Section("Provenance", (), [Table([["what", "value"], *rows])])


def _recorded(path: Path) -> dict[str, Any]:
    """Return what a run recorded about itself; a page does without what is damaged."""
    try:
        found = read_json(path)
    except ConfigError:
        return {}
    return found if isinstance(found, dict) else {}
