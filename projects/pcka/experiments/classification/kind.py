"""Classifiers in studies: their configs, trainings and results."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcka.classification.config import Config, config_differences, load_config, to_dict
from pcka.classification.distiller import build_terms
from pcka.classification.models import create_model
from pcka.classification.records import CHECKPOINT, CONFIG, STUDENT, read_metrics
from pcka.errors import ConfigError
from pcka.experiments.study.kinds import ConfigReader, ResultReader, RunKind, Training
from pcka.keys import leaves


class ClassificationConfigs(ConfigReader):
    """Reads configs of ``pcka classify``."""

    seed_key = "seed"
    output_key = "output_dir"
    teacher_key = "teacher.weights"

    def read(self, files: tuple[str, ...], opts: tuple[str, ...]) -> Config:
        return load_config(files, opts)

    def differences(self, folder: Path, cfg: Config) -> list[str]:
        return config_differences(load_config([folder / CONFIG]), cfg)

    def is_taught(self, cfg: Config) -> bool:
        return cfg.distils

    def evaluated_on(self, cfg: Config) -> str:
        name = cfg.data.root if cfg.data.name == "folder" else cfg.data.name
        images = "held out of training" if cfg.data.holdout else "for evaluation"
        return f"the images of {name} {images}"

    def values(self, cfg: Config) -> dict[str, Any]:
        return leaves(to_dict(cfg))


class ClassificationTraining(Training):
    """Starts ``pcka classify``."""

    weights = STUDENT
    checkpoint = CHECKPOINT
    unit = "epoch"

    def check(self, cfg: Config, *, teacher: bool) -> None:
        try:
            student = create_model(cfg.student.name, 10)
            if cfg.teacher is not None:
                network = create_model(cfg.teacher.name, 10)
                if cfg.distils:
                    build_terms(cfg.terms, student, network, cfg.data.image_size or 64)
        except ValueError as error:
            raise ConfigError(f"{cfg.output_dir}: {error}") from error
        weights = cfg.teacher.weights if cfg.teacher else ""
        if cfg.distils and teacher and not Path(weights).is_file():
            raise ConfigError(f"teacher.weights: there is no file {weights!r}")

    def command(self, files: tuple[str, ...], *, resume: bool) -> list[str]:
        command = [sys.executable, "-m", "pcka.classification.train"]
        command += [word for file in files for word in ("--config-file", file)]
        return [*command, "--resume"] if resume else command

    def length(self, cfg: Config) -> int:
        return cfg.train.epochs

    def progress(self, folder: Path) -> int:
        rows = read_metrics(folder)
        return int(rows[-1]["epoch"]) if rows else 0


class ClassificationResults(ResultReader):
    """Reads accuracies."""

    metrics = ("top-1", "top-5", "best top-1")
    cost = "images/s"

    def read(self, summary: Mapping[str, Any]) -> dict[str, float]:
        return {
            "top-1": summary["last"]["top1"],
            "top-5": summary["last"]["top5"],
            "best top-1": summary["best"]["top1"],
            "parameters": summary["parameters"],
            "images/s": summary["images_per_second"],
        }

    def note(self, cfg: Config) -> str:
        return (
            f"Accuracy in percent on {KIND.configs.evaluated_on(cfg)}, after the last epoch; best: "
            "the highest of all epochs, chosen on these very images. Images/s: of training."
        )


KIND = RunKind(
    "classification", ClassificationConfigs(), ClassificationTraining(), ClassificationResults()
)
