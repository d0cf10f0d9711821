"""Detectors in studies: their configs, trainings and results."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from pcka.detection.checks.preflight import check_run
from pcka.detection.config import config_differences, load_config
from pcka.detection.config_terms import distils
from pcka.errors import ConfigError
from pcka.experiments.study.kinds import ConfigReader, ResultReader, RunKind, Training
from pcka.keys import leaves

from .metrics import last_iteration


class DetectionConfigs(ConfigReader):
    """Reads detectron2 configs of one file and one evaluation set."""

    seed_key = "SEED"
    output_key = "OUTPUT_DIR"
    teacher_key = "MODEL.PCKA.TEACHER.WEIGHTS"

    def read(self, files: tuple[str, ...], opts: tuple[str, ...]) -> CfgNode:
        if len(files) != 1:
            raise ConfigError(f"CONFIG_FILE of a detector is one file, with a _BASE_, got {files}")
        cfg = load_config(files[0], list(opts))
        if len(cfg.DATASETS.TEST) != 1:
            raise ConfigError(f"a study evaluates on one DATASETS.TEST, got {cfg.DATASETS.TEST}")
        return cfg

    def differences(self, folder: Path, cfg: CfgNode) -> list[str]:
        return config_differences(load_config(str(folder / "config.yaml")), cfg)

    def is_taught(self, cfg: CfgNode) -> bool:
        return distils(cfg)

    def evaluated_on(self, cfg: CfgNode) -> str:
        return ", ".join(cfg.DATASETS.TEST)

    def values(self, cfg: CfgNode) -> dict[str, Any]:
        return leaves(cfg)


class DetectionTraining(Training):
    """Starts ``pcka train``."""

    weights = "model_final.pth"
    checkpoint = "last_checkpoint"
    unit = "it"

    def check(self, cfg: CfgNode, *, teacher: bool) -> None:
        check_run(cfg, resume=True, teacher=teacher)

    def command(self, files: tuple[str, ...], *, resume: bool) -> list[str]:
        command = [sys.executable, "-m", "pcka.detection.train", "--config-file", *files]
        return [*command, "--resume"] if resume else command

    def length(self, cfg: CfgNode) -> int:
        return cfg.SOLVER.MAX_ITER

    def progress(self, folder: Path) -> int:
        return last_iteration(folder / "metrics.json")


class DetectionResults(ResultReader):
    """Reads box AP."""

    metrics = ("AP", "AP50", "AP75")
    cost = "seconds"

    def read(self, summary: Mapping[str, Any]) -> dict[str, float]:
        boxes = summary["results"]["bbox"]
        return {
            **{
                name: boxes[name] or 0.0 for name in self.metrics
            },  # without any detection AP is missing: 0
            "parameters": summary["parameters"],
            "seconds": summary["seconds"],
        }

    def note(self, cfg: CfgNode) -> str:
        images = ", ".join(cfg.DATASETS.TEST)
        return f"Evaluated on {images}. Seconds: training and evaluation of one run."


KIND = RunKind("detection", DetectionConfigs(), DetectionTraining(), DetectionResults())
