"""Train a teacher and several students over several seeds, and compare them.

Every run is a process of ``tools/train_net.py`` with an output folder of its own; a finished run
is not repeated, so an interrupted comparison goes on where it stopped.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from tqdm import tqdm

from .config import ConfigError, check_keys, config_differences, distils, load_config, unknown_key
from .metrics import last_iteration
from .preflight import check_run

TRAIN_NET = Path(__file__).parents[3] / "tools" / "train_net.py"


@dataclass(frozen=True)
class Run:
    """One training: a config, resolved with its overrides, and where its results go."""

    label: str
    seed: int
    config_file: str
    opts: tuple
    output_dir: Path
    needs_teacher: bool
    iterations: int

    @property
    def config(self) -> CfgNode:
        return load_config(self.config_file, list(self.opts))

    @property
    def summary(self) -> dict | None:
        """What the finished run wrote, or None."""
        path = self.output_dir / "summary.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def metric(self, name: str) -> float:
        """A COCO metric of the finished run; a detector that finds nothing has AP 0."""
        return self.summary["results"]["bbox"][name] or 0.0

    @property
    def iteration(self) -> int:
        """How far it is, by its metrics."""
        done = self.iterations if self.summary else last_iteration(self.output_dir / "metrics.json")
        return min(done, self.iterations)


@dataclass
class Comparison:
    """A comparison file, resolved: the teacher's run and the students' runs by label."""

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


def load_comparison(
    path: str, *, seeds: list[int], opts: list[str], output_dir: str = ""
) -> Comparison:
    """Read a comparison file.

    ::

        TITLE: text above the table
        OUTPUT_DIR: folder of all runs
        TEACHER: {CONFIG_FILE: ..., OPTS: [KEY, VALUE, ...]}
        STUDENTS:                       # the first one is the baseline
          - {NAME: ..., CONFIG_FILE: ..., OPTS: [...]}
        PICTURE: {STUDENTS: [NAME, ...], IMAGES: 4}

    Args:
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
    known = ("TITLE", "OUTPUT_DIR", "TEACHER", "STUDENTS", "PICTURE")
    check_keys(content, known, required=("OUTPUT_DIR", "TEACHER", "STUDENTS"), where=path)
    output = Path(output_dir or content["OUTPUT_DIR"])

    def run(entry: dict, where: str, label: str, folder: Path, seed: int, extra=()) -> Run:
        check_keys(entry, ("NAME", "CONFIG_FILE", "OPTS"), required=("CONFIG_FILE",), where=where)
        if not isinstance(entry.get("OPTS", []), list):
            raise ConfigError(f"{where}: OPTS is a list [KEY, VALUE, ...], got {entry['OPTS']!r}")
        merged = (*entry.get("OPTS", ()), *extra, *opts, "SEED", seed, "OUTPUT_DIR", str(folder))
        try:
            cfg = load_config(entry["CONFIG_FILE"], list(merged))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        if len(cfg.DATASETS.TEST) != 1:
            raise ConfigError(f"{where}: compares on one DATASETS.TEST, got {cfg.DATASETS.TEST}")
        return Run(
            label=label,
            seed=seed,
            config_file=entry["CONFIG_FILE"],
            opts=tuple(str(o) for o in merged),
            output_dir=folder,
            needs_teacher=distils(cfg),
            iterations=cfg.SOLVER.MAX_ITER,
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
    weights = ("MODEL.PCKA.TEACHER.WEIGHTS", str(teacher.output_dir / "model_final.pth"))
    students = {}
    slugs = {"teacher": "the teacher"}
    for index, entry in enumerate(content["STUDENTS"]):
        where = f"{path}: STUDENTS[{index}]"
        label = entry.get("NAME") if isinstance(entry, dict) else None
        if not label or not isinstance(label, str):
            raise ConfigError(f"{where} needs a NAME")
        slug = "".join(c if c.isalnum() else "_" for c in label.lower())
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
    return Comparison(content.get("TITLE", path), output, teacher, students, picture)


def train_all(comparison: Comparison, *, jobs: int) -> None:
    """Train what is not trained yet, ``jobs`` runs at a time, showing progress and time left.

    Raises:
        ConfigError: before any run, if one of them cannot start.
        RuntimeError: a run failed; the message holds the end of its log.
    """
    waiting = [run for run in comparison.runs if not _is_done(run)]
    for run in waiting:
        _check(run)
    taught = [run for run in comparison.runs if run.needs_teacher and run not in waiting]
    if comparison.teacher in waiting and taught:
        raise ConfigError(
            f"{taught[0].output_dir} was taught by a teacher that is gone from "
            f"{comparison.teacher.output_dir}: move it away too, or set another --output"
        )
    total = sum(run.iterations for run in comparison.runs)
    finished = sum(r.iterations for r in comparison.runs if r not in waiting)
    print(f"{comparison.title}: {len(waiting)} of {len(comparison.runs)} runs to train, "
          f"{jobs} at a time, in {comparison.output_dir}", flush=True)  # fmt: skip
    running: dict[Run, subprocess.Popen] = {}
    interactive = sys.stderr.isatty()
    bar = tqdm(total=total, initial=finished, unit="it", smoothing=0.05, dynamic_ncols=True,
               mininterval=1 if interactive else 15)  # fmt: skip
    try:
        while waiting or running:
            trained = comparison.teacher.summary is not None
            ready = [run for run in waiting if trained or not run.needs_teacher]
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                running[run] = _start(run, jobs)
            time.sleep(1)
            for run, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[run]
                if process.returncode or run.summary is None:
                    raise RuntimeError(_failure(run, process.returncode))
                bar.write(f"{run.label}, seed {run.seed}: {_ap_text(run)}")
            bar.set_postfix_str(", ".join(r.label for r in running)[:60], refresh=False)
            bar.update(sum(run.iteration for run in comparison.runs) - bar.n)
    finally:
        bar.close()
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _is_done(run: Run) -> bool:
    """Whether the run is finished; its folder must then hold this very config."""
    if run.summary is None:
        return False
    changed = config_differences(load_config(str(run.output_dir / "config.yaml")), run.config)
    if changed:
        raise ConfigError(
            f"{run.output_dir} holds a finished run of another config (different: "
            f"{', '.join(changed)}): move it away, or set another --output"
        )
    return True


def _check(run: Run) -> None:
    """The run's own preflight, without what the comparison itself is going to make."""
    folder = run.output_dir
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "train.log").is_file():
        raise ConfigError(f"{folder} holds files of something else: set another --output")
    check_run(run.config, resume=True, teacher=False)


def _start(run: Run, jobs: int) -> subprocess.Popen:
    """Start or, if it left a checkpoint, resume a run; its output goes to ``train.log``."""
    resume = (run.output_dir / "last_checkpoint").is_file()
    if not resume and run.output_dir.exists():
        shutil.rmtree(run.output_dir)  # begun by us and stopped before its first checkpoint
    run.output_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(TRAIN_NET), "--config-file", run.config_file]
    command += ["--resume"] if resume else []
    # Two thread pools on the same cores run several times slower than one thread each.
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    log = open(run.output_dir / "train.log", "a")  # noqa: SIM115 - the process owns it
    with log:
        return subprocess.Popen(
            [*command, *run.opts],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )


def _failure(run: Run, code: int) -> str:
    log = run.output_dir / "train.log"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    return f"{run.label}, seed {run.seed} failed with exit status {code}; {log} ends:\n{tail}"


def _ap_text(run: Run) -> str:
    return f"AP {run.metric('AP'):.1f} in {run.summary['seconds']:.0f} s"
