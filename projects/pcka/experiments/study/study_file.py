"""Reading a study file: settings, with the runs that tune and report them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pcka.errors import ConfigError, check_keys, unknown_key
from pcka.yaml_files import read_mapping

from .grid import Choices, grid, keys_of, read_choices
from .run import Run
from .run_factory import ENTRY, FolderNames, RunFactory, name_of, words
from .study import Candidate, Setting, Study

_KEYS = ("TASK", "TITLE", "OUTPUT_DIR", "TEACHER", "STUDENTS", "SEEDS", "TUNING", "PICTURE")
# Before version 0.2, a study with axes had its first student under BASE and the others under this.
_OLD_KEYS = ("BASE", "SETTINGS")
# The columns of runs.csv besides the axes and the figures.
_COLUMNS = ("stage", "setting", "tuned", "seed", "status")


def load_study(
    path: str, *, opts: Sequence[str] = (), seeds: Sequence[int] = (), output_dir: str = ""
) -> Study:
    """Read a study file.

    ::

        TASK: detection (the default) or classification
        TITLE: text above the table
        OUTPUT_DIR: folder of all runs
        TEACHER: {CONFIG_FILE: ..., OPTS: [KEY, VALUE, ...]}   # or none: the configs name a file
        STUDENTS:                                      # the first is the base of all comparisons
          - {NAME: ..., CONFIG_FILE: ..., OPTS: [...]}
          - NAME: ...
            CONFIG_FILE: ...
            AXES: {NAME: {KEY: ..., VALUES: [...]}, ...}       # one setting per combination
            TUNE: {KEY: ..., VALUES: [...]}                    # for each setting of its own
        SEEDS: [1, 2, 3]                                       # [1] by default
        TUNING: {SEEDS: [101], OPTS: [...]}     # other seeds, and by OPTS other images
        PICTURE: {STUDENTS: [NAME, ...], IMAGES: 4}

    Entries of AXES and TUNE are read by :func:`read_choices`.

    Args:
        path: the path of the file.
        opts: KEY VALUE pairs for every run, the teacher's included; none that an axis sets.
        seeds: seeds that replace ``SEEDS``.
        output_dir: a folder that replaces ``OUTPUT_DIR``.

    Raises:
        ConfigError: a file that is not of this form, or a config that is not valid.
    """
    content = read_mapping(path, what="study file")
    entries = _students(content, path)
    if seeds:
        content["SEEDS"] = list(seeds)
    reported = _seeds(content.get("SEEDS", [1]), f"{path}: SEEDS")
    tuning, where = content.get("TUNING") or {}, f"{path}: TUNING"
    check_keys(tuning, ("SEEDS", "OPTS"), required=("SEEDS",) if tuning else (), where=where)
    tuning_seeds = _seeds(tuning["SEEDS"], f"{where}: SEEDS") if tuning else []
    if shared := sorted(set(reported) & set(tuning_seeds)):
        raise ConfigError(
            f"{where}: SEEDS {shared} are reported as well: tune on seeds that are not in SEEDS"
        )
    factory = RunFactory(path, content, opts=opts, output_dir=output_dir)
    tuning_opts = words(tuning.get("OPTS") or [], f"{where}: OPTS")
    reader = _SettingReader(factory, reported, tuning_seeds, tuning_opts)
    settings = []
    for index, (place, entry) in enumerate(entries):
        settings += reader.settings(entry, place, known=("AXES", "TUNE") if index else ())
    return Study(
        kind=factory.kind,
        title=factory.title,
        output_dir=factory.output_dir,
        teacher=factory.teacher,
        settings=settings,
        seeds=reported,
        tuning_seeds=tuning_seeds,
        picture=_picture(content, path, [setting.name for setting in settings]),
    )


def _students(content: dict, path: str) -> list[tuple[str, Any]]:
    """Return the entries of the students, each with its place for messages."""
    old = any(key in content for key in _OLD_KEYS)
    keys = (*_KEYS, *_OLD_KEYS) if old else _KEYS
    required = _OLD_KEYS if old else ("STUDENTS",)
    check_keys(content, keys, required=("OUTPUT_DIR", *required), where=path)
    key = "SETTINGS" if old else "STUDENTS"
    if not isinstance(content[key], list):
        raise ConfigError(f"{path}: {key} is a list of {{NAME: ..., CONFIG_FILE: ...}}")
    base = [(f"{path}: BASE", content["BASE"])] if old else []
    return [*base, *((f"{path}: {key}[{i}]", entry) for i, entry in enumerate(content[key]))]


def _picture(content: dict, path: str, names: Sequence[str]) -> dict[str, Any]:
    picture, where = content.get("PICTURE") or {}, f"{path}: PICTURE"
    required = ("STUDENTS",) if picture else ()
    check_keys(picture, ("STUDENTS", "IMAGES"), required=required, where=where)
    if not isinstance(picture.get("IMAGES", 4), int):
        raise ConfigError(f"{where}: IMAGES is a number, got {picture['IMAGES']!r}")
    for name in picture.get("STUDENTS", ()):
        if name not in names:
            raise ConfigError(f"{where}: {unknown_key(name, names)}")
    return picture


@dataclass
class _SettingReader:
    """Turns entries of STUDENTS into settings, each with a folder of its own."""

    factory: RunFactory
    seeds: list[int]
    tuning_seeds: list[int]
    tuning_opts: tuple[str, ...]
    folders: FolderNames = field(default_factory=lambda: FolderNames(teacher="the teacher"))

    def settings(self, entry: Any, where: str, *, known: Sequence[str]) -> list[Setting]:
        """Make one setting, or those of a grid; ``known`` are keys besides those of a run."""
        label = name_of(entry, where)
        check_keys(entry, (*ENTRY, *known), required=("CONFIG_FILE",), where=where)
        axes, tune = self._choices(entry, where)
        recipe = {key: value for key, value in entry.items() if key in ENTRY}
        tuned = " and ".join(dict.fromkeys(key.rsplit(".", 1)[-1] for key in keys_of(tune)))
        settings = []
        for point, pairs in grid(axes):
            name = ", ".join([label, *(f"{axis}={value}" for axis, value in point.items())])
            place = f"{where} ({name})" if point else where
            folder, values = self.folders.add(name, where), FolderNames()
            candidates = []
            for value, more in tune.items():
                own = f"{folder}/{values.add(value, f'{where}: TUNE')}"
                title, extra = f"{name}, {value}", (*pairs, *more)
                candidates.append(self._candidate(recipe, place, title, own, value, extra))
            if not tune:
                report = self._runs(recipe, place, name, self._reported / folder, pairs)
                candidates.append(Candidate("", [], report))
            settings.append(Setting(name, point, tuned, candidates))
        return settings

    @property
    def _reported(self) -> Path:
        """Return the folder of the runs of the report, which have their own beside the tuning."""
        own = self.factory.output_dir / "report"
        return own if self.tuning_seeds or own.is_dir() else self.factory.output_dir

    def _choices(self, entry: dict, where: str) -> tuple[dict[str, Choices], Choices]:
        """Return AXES and TUNE after a check that no two of them set the same key."""
        kind, configs = self.factory.kind, self.factory.kind.configs
        columns = (*_COLUMNS, *kind.results.metrics, "parameters", kind.results.cost)
        taken = {configs.seed_key: "SEEDS", configs.output_key: "OUTPUT_DIR"}
        taken |= {word.split("=")[0]: "the command line" for word in self.factory.opts}
        if self.factory.teacher:
            taken[configs.teacher_key] = "TEACHER"
        axes = entry.get("AXES") or {}
        if not isinstance(axes, dict):
            raise ConfigError(f"{where}: AXES is a mapping NAME -> {{KEY: ..., VALUES: [...]}}")
        found = {}
        for axis, content in axes.items():
            place = f"{where}: AXES: {axis}"
            if axis in columns:
                raise ConfigError(f"{place} is a column of runs.csv already: name it otherwise")
            found[str(axis)] = read_choices(content, place, taken)
            taken |= dict.fromkeys(keys_of(found[str(axis)]), f"AXES: {axis}")
        if entry.get("TUNE") is None:
            return found, {}
        if not self.tuning_seeds:
            raise ConfigError(
                f"{where}: TUNE needs TUNING: {{SEEDS: [...], OPTS: [...]}} in the file, seeds "
                "and images that are not reported"
            )
        return found, read_choices(entry["TUNE"], f"{where}: TUNE", taken)

    def _candidate(
        self, recipe: dict, where: str, title: str, folder: str, value: str, extra: Sequence[str]
    ) -> Candidate:
        report = self._runs(recipe, where, title, self._reported / folder, extra)
        configs = self.factory.kind.configs
        tuning = self.factory.runs(
            recipe,
            where,
            f"tuning of {title}",
            self.factory.output_dir / "tuning" / folder,
            self.tuning_seeds,
            extra=(*extra, *self.tuning_opts),
        )
        images = configs.evaluated_on(report[0].config)
        if configs.evaluated_on(tuning[0].config) == images:
            raise ConfigError(
                f"{where}: tuned and reported on {images}: set other images by TUNING: OPTS"
            )
        return Candidate(value, tuning, report)

    def _runs(
        self, recipe: dict, where: str, title: str, folder: Path, extra: Sequence[str]
    ) -> list[Run]:
        return self.factory.runs(recipe, where, title, folder, self.seeds, extra=extra)


def _seeds(value: Any, where: str) -> list[int]:
    fine = isinstance(value, list) and value and all(type(v) is int and v >= 0 for v in value)
    if not fine or len(set(value)) != len(value):
        raise ConfigError(f"{where} is a list of different whole numbers, got {value!r}")
    return value
