"""Detectors in comparisons: the :class:`pcka.experiments.Task` of ``tools/train_net.py``."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from matplotlib.figure import Figure

from pcka.detection.checks.preflight import check_run
from pcka.detection.config import config_differences, load_config
from pcka.detection.terms import distils
from pcka.errors import ConfigError
from pcka.experiments.comparison_file import Comparison
from pcka.experiments.page import Section
from pcka.experiments.run import Run
from pcka.experiments.task import Task
from pcka.keys import leaves

from .finished_run import draw_pictures
from .metrics import last_iteration
from .picture import comparison_picture
from .report import report_sections

TRAIN_NET = Path(__file__).parents[4] / "tools" / "train_net.py"


class Detection(Task):
    """Runs of a detectron2 config, compared by box AP."""

    seed_key = "SEED"
    output_key = "OUTPUT_DIR"
    teacher_key = "MODEL.PCKA.TEACHER.WEIGHTS"
    weights = "model_final.pth"
    checkpoint = "last_checkpoint"
    unit = "it"
    metrics = ("AP", "AP50", "AP75")
    cost = "seconds"

    def load(self, files: tuple[str, ...], opts: tuple[str, ...]) -> CfgNode:
        if len(files) != 1:
            raise ConfigError(f"CONFIG_FILE of a detector is one file, with a _BASE_, got {files}")
        cfg = load_config(files[0], list(opts))
        if len(cfg.DATASETS.TEST) != 1:
            raise ConfigError(f"compares on one DATASETS.TEST, got {cfg.DATASETS.TEST}")
        return cfg

    def differences(self, folder: Path, cfg: CfgNode) -> list[str]:
        return config_differences(load_config(str(folder / "config.yaml")), cfg)

    def needs_teacher(self, cfg: CfgNode) -> bool:
        return distils(cfg)

    def length(self, cfg: CfgNode) -> int:
        return cfg.SOLVER.MAX_ITER

    def progress(self, folder: Path) -> int:
        return last_iteration(folder / "metrics.json")

    def check(self, cfg: CfgNode, *, teacher: bool) -> None:
        check_run(cfg, resume=True, teacher=teacher)

    def command(self, files: tuple[str, ...], *, resume: bool) -> list[str]:
        command = [sys.executable, str(TRAIN_NET), "--config-file", *files]
        return [*command, "--resume"] if resume else command

    def results(self, summary: Mapping[str, Any]) -> dict[str, float]:
        boxes = summary["results"]["bbox"]
        return {
            **{name: boxes[name] or 0.0 for name in self.metrics},  # nothing found: AP 0
            "parameters": summary["parameters"],
            "seconds": summary["seconds"],
        }

    def evaluated_on(self, cfg: CfgNode) -> str:
        return ", ".join(cfg.DATASETS.TEST)

    def note(self, cfg: CfgNode) -> str:
        images = self.evaluated_on(cfg)
        return f"Evaluated on {images}. Seconds: training and evaluation of one run."

    def draw_picture(self, comparison: Comparison) -> Figure:
        return comparison_picture(comparison)

    def values(self, cfg: CfgNode) -> dict[str, Any]:
        return leaves(cfg)

    def pictures(
        self, folder: Path, *, image: int | None, **options: Any
    ) -> Iterator[tuple[str, Figure]]:
        return draw_pictures(folder, image=image or 0, **options)

    def sections(
        self, students: Mapping[str, Sequence[Run]], teacher: Run | None, *, images: int
    ) -> list[Section]:
        return report_sections(students, teacher, images=images)


TASK = Detection()
