"""The detector of a finished run: student and teacher, class names, and images as it reads them.

Letters: H, W height and width of an image in pixels; K classes.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb, convert_PIL_to_numpy, read_image
from detectron2.modeling import build_model
from PIL import Image
from torch import nn

import pcka.detection  # noqa: F401  (registers FCOS and the backbones of this project)
from pcka.detection.checks.translation import refusing
from pcka.detection.config import load_config, student_config
from pcka.detection.data.coco_json import num_classes, register_coco_json, student_architecture
from pcka.detection.engine.checkpointer import StudentCheckpointer
from pcka.detection.modeling.teacher import build_teacher
from pcka.errors import ConfigError
from pcka.files import read_json

from .image_sources import naming_image
from .runs import TrainedRun

logger = logging.getLogger(__name__)

# A batch in the form of detectron2 -> a result for each image.
Detect = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@dataclass(frozen=True)
class TrainedDetector:
    """The student of a finished run.

    Attributes:
        run: its folder.
        cfg: its config, with the device that computes here.
        model: the student, in evaluation mode.
        classes: K names.
        category_ids: K ids of the data set's own annotations.
    """

    run: TrainedRun
    cfg: CfgNode
    model: nn.Module
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]

    @property
    def architecture(self) -> str:
        return student_architecture(self.cfg)

    def read(self, path: str | Path) -> np.ndarray:
        """Return an upright image, ``(H, W, 3)`` uint8 in the channel order of ``INPUT.FORMAT``.

        Raises:
            ConfigError: it cannot be read.
        """
        with naming_image(path):
            return read_image(str(path), self.cfg.INPUT.FORMAT)

    def from_rgb(self, image: np.ndarray) -> np.ndarray:
        """Return an RGB image ``(H, W, 3)`` uint8 as :meth:`read` would give it."""
        return convert_PIL_to_numpy(Image.fromarray(image), self.cfg.INPUT.FORMAT)

    def rgb(self, image: np.ndarray) -> np.ndarray:
        """Return an image of :meth:`read` in RGB, to draw on."""
        return convert_image_to_rgb(image, self.cfg.INPUT.FORMAT)

    def input_of(self, image: np.ndarray) -> dict[str, Any]:
        """Return an image of :meth:`read` as the student's evaluation feeds it to the network."""
        height, width = image.shape[:2]
        resized = self._resize.get_transform(image).apply_image(image)
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": pixels, "height": height, "width": width}

    @cached_property
    def _resize(self) -> T.Augmentation:
        test = self.cfg.INPUT
        if test.MIN_SIZE_TEST == 0:
            return T.AugmentationList([])
        short = [test.MIN_SIZE_TEST, test.MIN_SIZE_TEST]
        return T.ResizeShortestEdge(short, test.MAX_SIZE_TEST)

    def teacher(self) -> tuple[Detect, tuple[str, ...]]:
        """Build the run's teacher; return what detects and its class names.

        Raises:
            ConfigError: the run names no teacher, or its weights lack the heads.
        """
        if not hasattr(self.cfg.MODEL, "PCKA") or not self.cfg.MODEL.PCKA.TEACHER.CONFIG_FILE:
            raise ConfigError(f"--teacher: the run in {self.run.folder} names no teacher")
        teacher = build_teacher(self.cfg)
        if teacher.missing_heads:
            raise ConfigError(
                f"--teacher: the teacher of {self.run.folder} detects nothing, as its weights lack "
                f"{len(teacher.missing_heads)} entries of the heads, such as "
                f"{teacher.missing_heads[0]}"
            )
        device = torch.device(self.cfg.MODEL.DEVICE)
        count = teacher.num_classes or len(self.classes)
        names = self.classes if count == len(self.classes) else _numbered(count)
        return lambda batch: teacher.detect(batch, device), names


def open_detector(run: TrainedRun, device: torch.device) -> TrainedDetector:
    """Build the student of a run and load its trained weights.

    Raises:
        ConfigError: a config that cannot be read or built, or weights that do not fit it.
    """
    cfg = load_config(str(run.config))
    cfg.MODEL.DEVICE = str(device)
    with refusing(f"the student of {run.folder} cannot be built"):
        model = build_model(student_config(cfg))
    checkpointer = StudentCheckpointer(model)
    checkpointer.load(str(run.weights))
    misfits = checkpointer.incompatible
    wrong = [key for key, *_ in misfits.incorrect_shapes]
    wrong += [key for key in misfits.missing_keys if not key.endswith("num_batches_tracked")]
    if wrong:
        raise ConfigError(
            f"{run.weights} does not fit {run.config}: {len(wrong)} entries of the student are "
            f"missing or of another shape, such as {wrong[0]}"
        )
    classes, ids = labels_of(run, cfg)
    return TrainedDetector(run, cfg, model.eval(), classes, ids)


def labels_of(run: TrainedRun, cfg: CfgNode) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return class names and category ids: those of the data, else of the run's summary."""
    count = num_classes(cfg)
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        try:
            register_coco_json(cfg)
            names, ids = _labels_of_dataset(name)
        except (ConfigError, OSError, KeyError, ValueError) as error:
            logger.info("%s: %s", name, error)
            continue
        if len(names) == count:
            return names, ids
    summary = read_json(run.folder / "summary.json")
    names = tuple(summary.get("classes", ())) if isinstance(summary, dict) else ()
    if len(names) != count:
        names = _numbered(count)
        logger.warning(
            "the data of %s is not here, so classes are called %s, ...", run.folder, names[0]
        )
    return names, tuple(range(1, count + 1))


def _labels_of_dataset(name: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names and ids of a registered data set; KeyError if it is not registered."""
    metadata = MetadataCatalog.get(name)
    if not metadata.get("thing_classes"):
        if metadata.get("json_file"):  # the categories alone: no image is looked at
            content = json.loads(Path(metadata.json_file).read_text(encoding="utf-8"))
            categories = sorted(content["categories"], key=lambda category: category["id"])
            return tuple(c["name"] for c in categories), tuple(c["id"] for c in categories)
        DatasetCatalog.get(name)
    names = tuple(metadata.get("thing_classes", ()))
    own = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = {contiguous: category for category, contiguous in own.items()}
    return names, tuple(ids.get(index, index + 1) for index in range(len(names)))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(count))
