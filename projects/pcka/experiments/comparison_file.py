"""A comparison file -> the runs that it asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pcka.errors import ConfigError, check_keys, unknown_key

from .run import Run
from .run_factory import Folders, RunFactory, name_of, read_file
from .task import Task


@dataclass
class Comparison:
    """A comparison file, resolved: the teacher's run, if it has one, and the students' by label."""

    task: Task
    title: str
    output_dir: Path
    teacher: Run | None
    students: dict[str, list[Run]]
    picture: dict = field(default_factory=dict)

    @property
    def runs(self) -> list[Run]:
        teacher = [self.teacher] if self.teacher else []
        return [*teacher, *(run for runs in self.students.values() for run in runs)]

    @property
    def baseline(self) -> str:
        """The label that others are compared with: the first student."""
        return next(iter(self.students))


def load_comparison(
    path: str, *, seeds: Sequence[int], opts: Sequence[str], output_dir: str = ""
) -> Comparison:
    """Read a comparison file.

    ::

        TASK: detection (the default) or classification
        TITLE: text above the table
        OUTPUT_DIR: folder of all runs
        TEACHER: {CONFIG_FILE: ..., OPTS: [KEY, VALUE, ...]}   # or none: the configs name a file
        STUDENTS:                       # the first one is the baseline
          - {NAME: ..., CONFIG_FILE: ..., OPTS: [...]}
        PICTURE: {STUDENTS: [NAME, ...], IMAGES: 4}

    Args:
        seeds: each student is trained once per seed; the teacher once, with seed 0.
        opts: KEY VALUE pairs for every run, the teacher's too.

    Raises:
        ConfigError: a file that is not of this form, or a config that is not valid.
    """
    content = read_file(path, "comparison")
    known = ("TASK", "TITLE", "OUTPUT_DIR", "TEACHER", "STUDENTS", "PICTURE")
    check_keys(content, known, required=("OUTPUT_DIR", "STUDENTS"), where=path)
    if not isinstance(content["STUDENTS"], list):
        raise ConfigError(f"{path}: STUDENTS is a list, the first of it the baseline")
    picture = content.get("PICTURE") or {}
    needed = ("STUDENTS",) if picture else ()
    check_keys(picture, ("STUDENTS", "IMAGES"), required=needed, where=f"{path}: PICTURE")
    if not isinstance(picture.get("IMAGES", 4), int):
        raise ConfigError(f"{path}: PICTURE: IMAGES is a number, got {picture['IMAGES']!r}")

    factory = RunFactory(path, content, opts=opts, output_dir=output_dir)
    folders = Folders(teacher="the teacher")
    students = {}
    for index, entry in enumerate(content["STUDENTS"]):
        where = f"{path}: STUDENTS[{index}]"
        label = name_of(entry, where)
        folder = factory.output_dir / folders.add(label, where)
        students[label] = factory.runs(entry, where, label, folder, seeds)
    for label in picture.get("STUDENTS", ()):
        if label not in students:
            raise ConfigError(f"{path}: PICTURE: {unknown_key(label, students)}")
    return Comparison(
        task=factory.task,
        title=factory.title,
        output_dir=factory.output_dir,
        teacher=factory.teacher,
        students=students,
        picture=picture,
    )
