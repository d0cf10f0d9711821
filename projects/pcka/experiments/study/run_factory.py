"""Making runs from the entries of a study file, each with a folder of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pcka.errors import ConfigError, check_keys

from .kinds import kind_of
from .run import Run

ENTRY = ("NAME", "CONFIG_FILE", "OPTS")


class RunFactory:
    """Makes the runs of one file, and the run of its ``TEACHER``, if it has one.

    Args:
        path: the path of the file, for messages.
        content: its content; ``TASK``, ``TITLE``, ``OUTPUT_DIR`` and ``TEACHER`` are read.
        opts: KEY VALUE pairs for every run, merged after an entry's own.
        output_dir: a folder that replaces ``OUTPUT_DIR``.

    Attributes:
        teacher: the teacher's run; None if the teacher is a file of trained weights.
    """

    def __init__(self, path: str, content: dict, *, opts: Sequence[str], output_dir: str):
        try:
            self.kind = kind_of(content.get("TASK", "detection"))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        self.opts = tuple(opts)
        self.title = str(content.get("TITLE", path))
        self.output_dir = Path(output_dir or str(content["OUTPUT_DIR"])).expanduser()
        self.teacher: Run | None = None
        if content.get("TEACHER"):
            where, key = f"{path}: TEACHER", self.kind.configs.teacher_key
            if any(word.split("=")[0] == key for word in opts):
                raise ConfigError(
                    f"{where} is trained as teacher, but {key} names another: drop one of them"
                )
            [teacher] = self.runs(content["TEACHER"], where, "teacher", self.output_dir, [0])
            self.teacher = replace(teacher, output_dir=self.output_dir / "teacher")

    def runs(
        self,
        entry: Any,
        where: str,
        label: str,
        folder: Path,
        seeds: Iterable[int],
        *,
        extra: Sequence[str] = (),
    ) -> list[Run]:
        """Make one run per seed of ``{NAME: ..., CONFIG_FILE: ..., OPTS: [...]}``.

        Args:
            entry: an entry of the file.
            where: the place of the entry, for messages.
            label: the label of the runs.
            folder: the folder of the runs, each of which has a folder ``seed<N>`` in it.
            seeds: the seeds of the runs.
            extra: KEY VALUE pairs that are merged last.

        Raises:
            ConfigError: an entry that is not of this form, or a config that is not valid.
        """
        check_keys(entry, ENTRY, required=("CONFIG_FILE",), where=where)
        files = entry["CONFIG_FILE"]
        files = tuple(files) if isinstance(files, list) else (files,)
        if not all(isinstance(file, str) for file in files):
            raise ConfigError(f"{where}: CONFIG_FILE is a path or a list of paths, got {files}")
        opts = (*words(entry.get("OPTS") or [], f"{where}: OPTS"), *self.opts, *extra)
        configs, training = self.kind.configs, self.kind.training
        try:
            cfg = configs.read(files, (*opts, configs.output_key, str(folder)))
            teacher = self.teacher if configs.is_taught(cfg) else None
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        if teacher:
            opts += (configs.teacher_key, str(teacher.output_dir / training.weights))
        return [
            Run(
                kind=self.kind,
                label=label,
                seed=seed,
                files=files,
                opts=opts,
                output_dir=folder / f"seed{seed}",
                teacher=teacher,
                length=training.length(cfg),
            )
            for seed in seeds
        ]


class FolderNames:
    """Names of folders, a different one for each name of a setting.

    Args:
        taken: folders that are in use, each with its purpose.
    """

    def __init__(self, **taken: str):
        self._names = taken

    def add(self, name: str, where: str) -> str:
        """Return the folder of ``name``; raise ConfigError if another name has it."""
        slug = slug_of(name)
        if slug in self._names:
            raise ConfigError(
                f"{where}: {name!r} and {self._names[slug]!r} would share the folder {slug!r}: "
                "each needs a NAME of its own, in letters and digits"
            )
        if len(slug.encode()) > 200:
            raise ConfigError(f"{where}: {name!r} is too long for the name of a folder")
        self._names[slug] = name
        return slug


def slug_of(name: str) -> str:
    """Return the name of the folder of a setting."""
    return "".join(c if c.isalnum() else "_" for c in name.lower())


def name_of(entry: Any, where: str) -> str:
    """Return the NAME that an entry has to have."""
    name = entry.get("NAME") if isinstance(entry, dict) else None
    if not name or not isinstance(name, str):
        raise ConfigError(f"{where} needs a NAME")
    return name


def words(values: Any, where: str) -> tuple[str, ...]:
    """Return a list ``[KEY, VALUE, ...]`` as words of a command line."""
    if not isinstance(values, list):
        raise ConfigError(f"{where} is a list [KEY, VALUE, ...], got {values!r}")
    return tuple(word(value, where) for value in values)


def word(value: Any, where: str) -> str:
    """Return a value as a word of a command line."""
    if value is None:
        raise ConfigError(f"{where}: quote an empty value as the config writes it: 'null', 'None'")
    return str(value)
