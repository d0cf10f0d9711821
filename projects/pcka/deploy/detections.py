"""Detections on images: drawn by detectron2's Visualizer, and as a file in COCO's format."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image
from tqdm import tqdm

from pcka.errors import ConfigError
from pcka.files import replacing, write_json

from .detector import Detect, TrainedDetector

PREDICTIONS, TEACHER_PREDICTIONS = "predictions.json", "predictions_teacher.json"
_LEGIBLE = 480  # pixels: the shorter side of a drawing is brought to at least half of this


class CocoFile:
    """Detections as a COCO file: its annotations have a score, and masks as run lengths.

    Args:
        classes: names by class number.
        category_ids: ids by class number.
    """

    def __init__(self, classes: Sequence[str], category_ids: Sequence[int]):
        self.ids = list(category_ids)
        pairs = zip(category_ids, classes, strict=True)
        self.content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": number, "name": name} for number, name in pairs],
        }

    def add(self, image: dict[str, Any], instances: Instances) -> None:
        """Append an image (``file_name``, ``width``, ``height``, ...) and all its detections."""
        annotations = self.content["annotations"]
        number = len(self.content["images"]) + 1
        self.content["images"].append({"id": number, **image})
        for entry in instances_to_coco_json(instances, number):
            width, height = entry["bbox"][2:]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    **entry,
                    "category_id": self.ids[entry["category_id"]],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )


class Detections:
    """Runs networks over images, draws what they find and collects it.

    Args:
        detector: the student.
        threshold: score from which a detection is drawn; the files hold all of them.
        with_teacher: also run the teacher, and draw its detections on the right.

    Raises:
        ConfigError: a teacher is wanted, and the run has none that detects.
    """

    def __init__(self, detector: TrainedDetector, *, threshold: float, with_teacher: bool = False):
        self.detector, self.threshold = detector, threshold
        self.networks: list[tuple[Detect, CocoFile, Metadata]] = []
        self._add(detector.model, detector.classes, detector.category_ids)
        if with_teacher:
            detect, classes = detector.teacher()
            same = len(classes) == len(detector.classes)
            ids = detector.category_ids if same else tuple(range(1, len(classes) + 1))
            self._add(detect, classes, ids)

    def _add(self, detect: Detect, classes: Sequence[str], ids: Sequence[int]) -> None:
        metadata = Metadata().set(thing_classes=list(classes))
        self.networks.append((detect, CocoFile(classes, ids), metadata))

    @torch.inference_mode()
    def draw(
        self, images: Sequence[np.ndarray], records: Sequence[dict[str, Any]]
    ) -> Iterator[np.ndarray]:
        """Detect in a batch, keep all detections and yield a drawing ``(H, W, 3)`` of each image.

        Args:
            images: the results of :meth:`TrainedDetector.read`.
            records: the entries of each image in the file, beside its size.
        """
        batch = [self.detector.input_of(image) for image in images]
        found = [detect(batch) for detect, *_ in self.networks]
        for index, (image, record) in enumerate(zip(images, records, strict=True)):
            height, width = image.shape[:2]
            drawings = []
            for results, (_, file, metadata) in zip(found, self.networks, strict=True):
                instances = self._instances(results[index])
                file.add({**record, "width": width, "height": height}, instances)
                drawings.append(self._drawing(self.detector.rgb(image), instances, metadata))
            yield np.concatenate(drawings, axis=1)

    def _instances(self, result: dict[str, Any]) -> Instances:
        if "instances" not in result:
            raise ConfigError(
                f"{self.detector.run.folder}: a {self.detector.architecture} detects no objects: "
                "only detectors of boxes predict here"
            )
        return result["instances"].to("cpu")

    def _drawing(self, rgb: np.ndarray, instances: Instances, metadata: Metadata) -> np.ndarray:
        scale = max(1, _LEGIBLE // min(rgb.shape[:2]))
        drawn = instances[instances.scores >= self.threshold]
        visualizer = Visualizer(rgb, metadata, scale=scale)
        return visualizer.draw_instance_predictions(drawn).get_image()

    def write(self, output: Path) -> None:
        """Write all detections so far as COCO files."""
        for name, (_, file, _) in zip(
            (PREDICTIONS, TEACHER_PREDICTIONS), self.networks, strict=False
        ):
            write_json(output / name, file.content)


def predict_images(
    detections: Detections,
    images: Sequence[Path],
    names: Sequence[str],
    output: Path,
    *,
    batch_size: int,
) -> None:
    """Detect in image files and write a drawing of each, by its name, into ``output``."""
    with tqdm(total=len(images), desc="images", unit="image", disable=None) as progress:
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            pixels = [detections.detector.read(path) for path in part]
            records = [{"file_name": str(path)} for path in part]
            drawings = detections.draw(pixels, records)
            for name, drawing in zip(names[start:], drawings, strict=False):
                with replacing(output / f"{name}.png") as file:
                    Image.fromarray(drawing).save(file, format="PNG")
                progress.update()
