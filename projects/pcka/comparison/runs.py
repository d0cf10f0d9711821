"""A comparison file -> the runs that it asks for."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, check_keys, unknown_key
from .task import Task


@dataclass(frozen=True)
class Run:
    """One training: a config, resolved with its overrides, and where its results go."""

    task: Task
    label: str
    seed: int
    files: tuple[str, ...]
    opts: tuple[str, ...]
    output_dir: Path
    needs_teacher: bool
    length: int

    @property
    def config(self) -> Any:
        return self.task.load(self.files, self.opts)

    @property
    def summary(self) -> dict | None:
        """What the finished run wrote, or None."""
        path = self.output_dir / "summary.json"
        return json.loads(path.read_text()) if path.is_file() else None

    @property
    def results(self) -> dict[str, float]:
        """Of the finished run; see ``Task.results``."""
        return self.task.results(self.summary)

    @property
    def progress(self) -> int:
        done = self.length if self.summary else self.task.progress(self.output_dir)
        return min(done, self.length)


@dataclass
class Comparison:
    """A comparison file, resolved: the teacher's run and the students' runs by label."""

    task: Task
    title: str
    output_dir: Path
    teacher: Run
    students: dict[str, list[Run]]
    picture: dict = field(default_factory=dict)

    @property
    def runs(self) -> list[Run]:
        return [self.teacher, *(run for runs in self.students.values() for run in runs)]

    @property
    def baseline(self) -> str:
        """The label that others are compared with: the first student."""
        return next(iter(self.students))


def slug_of(label: str) -> str:
    """The folder of a label's runs."""
    return "".join(c if c.isalnum() else "_" for c in label.lower())


def load_comparison(
    path: str,
    task_of: Callable[[str], Task],
    *,
    seeds: list[int],
    opts: list[str],
    output_dir: str = "",
) -> Comparison:
    """Read a comparison file.

    ::

        TASK: detection (the default) or classification
        TITLE: text above the table
        OUTPUT_DIR: folder of all runs
        TEACHER: {CONFIG_FILE: ..., OPTS: [KEY, VALUE, ...]}
        STUDENTS:                       # the first one is the baseline
          - {NAME: ..., CONFIG_FILE: ..., OPTS: [...]}
        PICTURE: {STUDENTS: [NAME, ...], IMAGES: 4}

    Args:
        task_of: the task of a name; raises ConfigError for one that it does not know.
        seeds: each student is trained once per seed; the teacher once, with seed 0.
        opts: KEY VALUE pairs for every run, the teacher's too.

    Raises:
        ConfigError: a file that is not of this form, or a config that is not valid.
    """
    try:
        with open(path) as file:
            content = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the comparison {path}: {error}") from error
    known = ("TASK", "TITLE", "OUTPUT_DIR", "TEACHER", "STUDENTS", "PICTURE")
    check_keys(content, known, required=("OUTPUT_DIR", "TEACHER", "STUDENTS"), where=path)
    task = task_of(content.get("TASK", "detection"))
    output = Path(output_dir or content["OUTPUT_DIR"])

    def run(entry: dict, where: str, label: str, folder: Path, seed: int, extra=()) -> Run:
        check_keys(entry, ("NAME", "CONFIG_FILE", "OPTS"), required=("CONFIG_FILE",), where=where)
        if not isinstance(entry.get("OPTS", []), list):
            raise ConfigError(f"{where}: OPTS is a list [KEY, VALUE, ...], got {entry['OPTS']!r}")
        own = (task.seed_key, seed, task.output_key, str(folder))
        merged = tuple(str(o) for o in (*entry.get("OPTS", ()), *extra, *opts, *own))
        files = entry["CONFIG_FILE"]
        files = tuple(files) if isinstance(files, list) else (files,)
        try:
            cfg = task.load(files, merged)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        return Run(
            task=task,
            label=label,
            seed=seed,
            files=files,
            opts=merged,
            output_dir=folder,
            needs_teacher=task.needs_teacher(cfg),
            length=task.length(cfg),
        )

    if not isinstance(content["STUDENTS"], list):
        raise ConfigError(f"{path}: STUDENTS is a list, the first of it the baseline")
    picture = content.get("PICTURE") or {}
    needed = ("STUDENTS",) if picture else ()
    check_keys(picture, ("STUDENTS", "IMAGES"), required=needed, where=f"{path}: PICTURE")
    if not isinstance(picture.get("IMAGES", 4), int):
        raise ConfigError(f"{path}: PICTURE: IMAGES is a number, got {picture['IMAGES']!r}")

    where = f"{path}: TEACHER"
    teacher = run(content["TEACHER"], where, "teacher", output / "teacher", 0)
    weights = (task.teacher_key, str(teacher.output_dir / task.weights))
    students = {}
    slugs = {"teacher": "the teacher"}
    for index, entry in enumerate(content["STUDENTS"]):
        where = f"{path}: STUDENTS[{index}]"
        label = entry.get("NAME") if isinstance(entry, dict) else None
        if not label or not isinstance(label, str):
            raise ConfigError(f"{where} needs a NAME")
        slug = slug_of(label)
        if slug in slugs:
            raise ConfigError(
                f"{where}: {label!r} and {slugs[slug]!r} would share the folder {slug!r}: each "
                "needs a NAME of its own, in letters and digits"
            )
        slugs[slug] = label
        students[label] = [
            run(entry, where, label, output / slug / f"seed{seed}", seed, weights) for seed in seeds
        ]
    for label in picture.get("STUDENTS", ()):
        if label not in students:
            raise ConfigError(f"{path}: PICTURE: {unknown_key(label, students)}")
    return Comparison(task, content.get("TITLE", path), output, teacher, students, picture)
