"""Classifiers in comparisons: the :class:`pcka.experiments.Task` of ``classification.train``."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pcka.classification.config import Config, config_differences, load_config, to_dict
from pcka.classification.distiller import build_terms
from pcka.classification.models import create_model
from pcka.classification.records import CHECKPOINT, CONFIG, STUDENT, accuracy_curve, read_metrics
from pcka.errors import ConfigError
from pcka.experiments.comparison_file import Comparison
from pcka.experiments.page import Section
from pcka.experiments.run import Run
from pcka.experiments.task import Task
from pcka.keys import leaves

from .figures import accuracy_figure
from .finished_run import draw_pictures
from .report import report_sections

ROOT = Path(__file__).parents[1]  # of the checkout, which holds this package


class Classification(Task):
    """Runs of a classification config, compared by top-1 after the last epoch."""

    seed_key = "seed"
    output_key = "output_dir"
    teacher_key = "teacher.weights"
    weights = STUDENT
    checkpoint = CHECKPOINT
    unit = "epoch"
    metrics = ("top-1", "top-5", "best top-1")
    cost = "images/s"

    def load(self, files: tuple[str, ...], opts: tuple[str, ...]) -> Config:
        return load_config(files, opts)

    def differences(self, folder: Path, cfg: Config) -> list[str]:
        return config_differences(load_config([folder / CONFIG]), cfg)

    def needs_teacher(self, cfg: Config) -> bool:
        return cfg.distils

    def length(self, cfg: Config) -> int:
        return cfg.train.epochs

    def progress(self, folder: Path) -> int:
        rows = read_metrics(folder)
        return int(rows[-1]["epoch"]) if rows else 0

    def check(self, cfg: Config, *, teacher: bool) -> None:
        """Names of models, whether the terms fit them, and the teacher's file."""
        sides = [cfg.student] if cfg.teacher is None else [cfg.student, cfg.teacher]
        try:
            models = [create_model(side.name, 10) for side in sides]
            if cfg.distils:
                build_terms(cfg.terms, *models, cfg.data.image_size or 64)
        except ValueError as error:
            raise ConfigError(f"{cfg.output_dir}: {error}") from error
        if cfg.distils and teacher and not Path(cfg.teacher.weights).is_file():
            raise ConfigError(f"teacher.weights: there is no file {cfg.teacher.weights!r}")

    def command(self, files: tuple[str, ...], *, resume: bool) -> list[str]:
        command = [sys.executable, "-m", "pcka.classification.train"]
        command += [word for file in files for word in ("--config-file", file)]
        return [*command, "--resume"] if resume else command

    def environment(self) -> dict[str, str]:
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def results(self, summary: Mapping[str, Any]) -> dict[str, float]:
        return {
            "top-1": summary["last"]["top1"],
            "top-5": summary["last"]["top5"],
            "best top-1": summary["best"]["top1"],
            "parameters": summary["parameters"],
            "images/s": summary["images_per_second"],
        }

    def evaluated_on(self, cfg: Config) -> str:
        name = cfg.data.root if cfg.data.name == "folder" else cfg.data.name
        images = "held out of training" if cfg.data.holdout else "for evaluation"
        return f"the images of {name} {images}"

    def note(self, cfg: Config) -> str:
        return (
            f"Accuracy in percent on {self.evaluated_on(cfg)}, after the last epoch; best: the "
            "highest of all epochs, chosen on these very images. Images/s: of training."
        )

    def draw_picture(self, comparison: Comparison) -> Figure:
        curves = {
            label: [accuracy_curve(run.output_dir) for run in comparison.students[label]]
            for label in comparison.picture["STUDENTS"]
        }
        teacher = comparison.teacher.results["top-1"] if comparison.teacher else None
        return accuracy_figure(curves, teacher=teacher, title=comparison.title)

    def values(self, cfg: Config) -> dict[str, Any]:
        return leaves(to_dict(cfg))

    def pictures(
        self, folder: Path, *, image: int | None, **options: Any
    ) -> Iterator[tuple[str, Figure]]:
        if image is not None:
            raise ConfigError(
                f"--image is of a detector, and {folder} is the run of a classifier, whose Gram "
                "matrices are those of a batch: drop it"
            )
        return draw_pictures(folder, **options)

    def sections(
        self, students: Mapping[str, Sequence[Run]], teacher: Run | None, *, images: int
    ) -> list[Section]:
        return report_sections(students, teacher, images=images)


TASK = Classification()
