"""A kind of runs whose training is arithmetic; run as a script, this file is that training.

The best weight on the images "tune" is 3; on "val" it is 10.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

import yaml

from pcka.cli import end_with_parent
from pcka.errors import ConfigError, unknown_key
from pcka.experiments.study.kinds import ConfigReader, ResultReader, RunKind, Training
from pcka.keys import leaves, set_key

DEFAULTS = {
    "seed": 0,
    "output_dir": "",
    "teacher": "",
    "taught": False,
    "images": "val",
    "kind": "none",
    "weight": 1.0,
    "steps": 2,
    "seconds": 0.0,
    "fails": [],
    "unless": "",
    "terms": [],
}
GAIN = {"none": 0.0, "a": 1.0, "b": 4.0}


class Configs(ConfigReader):
    seed_key, output_key, teacher_key = "seed", "output_dir", "teacher"

    def read(self, files, opts):
        cfg = dict(DEFAULTS)
        for file in files:
            cfg |= yaml.safe_load(Path(file).read_text()) or {}
        for key, value in zip(opts[::2], opts[1::2], strict=True):
            if key.split(".")[0] not in cfg:
                raise ConfigError(unknown_key(key, cfg))
            set_key(cfg, key, yaml.safe_load(value), name="name")
        return cfg

    def differences(self, folder, cfg):
        there = json.loads((folder / "config.json").read_text())
        return [key for key in cfg if there[key] != cfg[key]]

    def is_taught(self, cfg):
        return cfg["taught"]

    def evaluated_on(self, cfg):
        return cfg["images"]

    def values(self, cfg):
        return leaves(cfg)


class Trainings(Training):
    weights, checkpoint, unit = "weights", "checkpoint", "step"

    def check(self, cfg, *, teacher):
        if cfg["kind"] not in GAIN:
            raise ConfigError(f"kind {cfg['kind']!r} is not known")
        if teacher and cfg["taught"] and not Path(cfg["teacher"]).is_file():
            raise ConfigError(f"no teacher at {cfg['teacher']!r}")

    def command(self, files, *, resume):
        return [sys.executable, __file__, *files, "--", "resume" if resume else "new"]

    def length(self, cfg):
        return cfg["steps"]

    def progress(self, folder):
        return len(_lines(folder / "checkpoint"))


class Results(ResultReader):
    metrics, cost = ("score", "other"), "seconds"

    def read(self, summary):
        return summary

    def note(self, cfg):
        return f"Evaluated on {cfg['images']}."


KIND = RunKind("fake", Configs(), Trainings(), Results())


def start_here(run, jobs):
    """Train in this process, at once; this is a ``start`` for the scheduler."""
    run.output_dir.mkdir(parents=True, exist_ok=True)
    (run.output_dir / "failure.json").unlink(missing_ok=True)
    words = []
    resume = (run.output_dir / "checkpoint").is_file()
    status = train(run.files, run.all_opts, resume, words.append)
    (run.output_dir / "train.log").write_text("\n".join(words))
    return Done(status)


class Done:
    """A process that has ended."""

    def __init__(self, status):
        self.returncode = status

    def poll(self):
        return self.returncode


def train(files, opts, resume, say):
    """Train, and return the exit status."""
    cfg = KIND.configs.read(files, opts)
    folder = Path(cfg["output_dir"])
    (folder / "config.json").write_text(json.dumps(cfg))
    (folder / "pid").write_text(str(os.getpid()))
    begun = len(_lines(folder / "checkpoint"))
    if bool(begun) != resume:
        say("resumed without a checkpoint, or not resumed with one")
        return 1
    for step in range(begun + 1, cfg["steps"] + 1):
        time.sleep(cfg["seconds"])
        if cfg["seed"] in cfg["fails"] and not (cfg["unless"] and Path(cfg["unless"]).exists()):
            say("some words")
            say("BOOM")
            return 3
        with (folder / "checkpoint").open("a") as file:
            file.write(f"{step}\n")
    if cfg["taught"] and Path(cfg["teacher"]).read_text() != "taught":
        say("the teacher is not trained")
        return 1
    (folder / "weights").write_text("taught")
    best = {"tune": 3, "val": 10}[cfg["images"]]
    gain = GAIN[cfg["kind"]] * (1 + cfg["seed"] % 2)
    score = 20 + cfg["seed"] + gain - abs(math.log(cfg["weight"] / best))
    summary = {"score": score, "other": 7.0, "parameters": 1_500_000, "seconds": 2.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    return 0


def _lines(path):
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    end_with_parent()
    cut = sys.argv.index("--")
    sys.exit(train(sys.argv[1:cut], sys.argv[cut + 2 :], sys.argv[cut + 1] == "resume", print))
