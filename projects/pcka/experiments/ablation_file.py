"""An ablation file -> settings, with the runs to tune and to report them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pcka.errors import ConfigError, check_keys

from .ablation import Ablation, Candidate, Setting
from .choices import Choices, grid, keys_of, read_choices
from .run import Run
from .run_factory import ENTRY, Folders, RunFactory, name_of, read_file, words

_KEYS = ("TASK", "TITLE", "OUTPUT_DIR", "TEACHER", "BASE", "SETTINGS", "SEEDS", "TUNING")
# Columns of runs.csv, beside the axes and the figures.
_COLUMNS = ("stage", "setting", "tuned", "seed", "status")


def load_ablation(path: str, *, opts: Sequence[str], output_dir: str = "") -> Ablation:
    """Read an ablation file.

    ::

        TASK: detection (the default) or classification
        TITLE: text above the table
        OUTPUT_DIR: folder of all runs
        TEACHER: {CONFIG_FILE: ..., OPTS: [KEY, VALUE, ...]}   # or none: the configs name a file
        BASE: {NAME: ..., CONFIG_FILE: ..., OPTS: [...]}       # what every setting is compared with
        SETTINGS:
          - NAME: ...
            CONFIG_FILE: ...
            OPTS: [...]
            AXES: {NAME: {KEY: ..., VALUES: [...]}, ...}       # one setting per combination
            TUNE: {KEY: ..., VALUES: [...]}                    # for each setting of its own
        SEEDS: [1, 2, 3]
        TUNING: {SEEDS: [101], OPTS: [...]}     # other seeds, and by OPTS other images

    Entries of AXES and TUNE are read by ``choices.read_choices``.

    Args:
        opts: KEY VALUE pairs for every run, the teacher's too; what an axis sets, they may not.

    Raises:
        ConfigError: a file that is not of this form, or a config that is not valid.
    """
    content = read_file(path, "ablation")
    check_keys(content, _KEYS, required=("OUTPUT_DIR", "BASE", "SETTINGS", "SEEDS"), where=path)
    seeds = _seeds(content["SEEDS"], f"{path}: SEEDS")
    tuning = content.get("TUNING") or {}
    where = f"{path}: TUNING"
    check_keys(tuning, ("SEEDS", "OPTS"), required=("SEEDS",) if tuning else (), where=where)
    tuning_seeds = _seeds(tuning["SEEDS"], f"{where}: SEEDS") if tuning else []
    if shared := sorted(set(seeds) & set(tuning_seeds)):
        raise ConfigError(
            f"{where}: SEEDS {shared} are reported as well: tune on seeds that are not in SEEDS"
        )
    if not isinstance(content["SETTINGS"], list):
        raise ConfigError(f"{path}: SETTINGS is a list of {{NAME: ..., CONFIG_FILE: ...}}")

    factory = RunFactory(path, content, opts=opts, output_dir=output_dir)
    reader = _SettingReader(
        factory, seeds, tuning_seeds, words(tuning.get("OPTS") or [], f"{where}: OPTS")
    )
    settings = reader.settings(content["BASE"], f"{path}: BASE", known=())
    for index, entry in enumerate(content["SETTINGS"]):
        settings += reader.settings(entry, f"{path}: SETTINGS[{index}]", known=("AXES", "TUNE"))
    return Ablation(
        task=factory.task,
        title=factory.title,
        output_dir=factory.output_dir,
        teacher=factory.teacher,
        settings=settings,
        seeds=seeds,
        tuning_seeds=tuning_seeds,
    )


@dataclass
class _SettingReader:
    """Entries of BASE and SETTINGS -> settings, each with a folder of its own."""

    factory: RunFactory
    seeds: list[int]
    tuning_seeds: list[int]
    tuning_opts: tuple[str, ...]
    folders: Folders = field(default_factory=Folders)

    def settings(self, entry: Any, where: str, *, known: Sequence[str]) -> list[Setting]:
        """One setting, or those of a grid; ``known``: keys of the entry beside those of a run."""
        label = name_of(entry, where)
        check_keys(entry, (*ENTRY, *known), required=("CONFIG_FILE",), where=where)
        axes, tune = self._choices(entry, where)
        recipe = {key: value for key, value in entry.items() if key in ENTRY}
        tuned = " and ".join(dict.fromkeys(key.rsplit(".", 1)[-1] for key in keys_of(tune)))
        settings = []
        for point, pairs in grid(axes):
            name = ", ".join([label, *(f"{axis}={value}" for axis, value in point.items())])
            place = f"{where} ({name})" if point else where
            folder, values = self.folders.add(name, where), Folders()
            candidates = []
            for value, more in tune.items():
                own = f"{folder}/{values.add(value, f'{where}: TUNE')}"
                title, extra = f"{name}, {value}", (*pairs, *more)
                candidates.append(self._candidate(recipe, place, title, own, value, extra))
            if not tune:
                runs = self._runs(recipe, place, name, f"report/{folder}", self.seeds, pairs)
                candidates.append(Candidate("", [], runs))
            settings.append(Setting(name, point, tuned, candidates))
        return settings

    def _choices(self, entry: dict, where: str) -> tuple[dict[str, Choices], Choices]:
        """AXES and TUNE, no two of which set the same key."""
        task = self.factory.task
        columns = (*_COLUMNS, *task.metrics, "parameters", task.cost)
        taken = {task.seed_key: "SEEDS", task.output_key: "OUTPUT_DIR"}
        taken |= {word.split("=")[0]: "the command line" for word in self.factory.opts}
        if self.factory.teacher:
            taken[task.teacher_key] = "TEACHER"
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
        report = self._runs(recipe, where, title, f"report/{folder}", self.seeds, extra)
        extra = (*extra, *self.tuning_opts)
        title = f"tuning of {title}"
        tuning = self._runs(recipe, where, title, f"tuning/{folder}", self.tuning_seeds, extra)
        images = self.factory.task.evaluated_on(report[0].config)
        if self.factory.task.evaluated_on(tuning[0].config) == images:
            raise ConfigError(
                f"{where}: tuned and reported on {images}: set other images by TUNING: OPTS"
            )
        return Candidate(value, tuning, report)

    def _runs(
        self,
        recipe: dict,
        where: str,
        title: str,
        folder: str,
        seeds: list[int],
        extra: Sequence[str],
    ) -> list[Run]:
        output = self.factory.output_dir / folder
        return self.factory.runs(recipe, where, title, output, seeds, extra=extra)


def _seeds(value: Any, where: str) -> list[int]:
    fine = isinstance(value, list) and value and all(type(v) is int and v >= 0 for v in value)
    if not fine or len(set(value)) != len(value):
        raise ConfigError(f"{where} is a list of different whole numbers, got {value!r}")
    return value
