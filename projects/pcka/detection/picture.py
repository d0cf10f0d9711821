"""The picture of a comparison of detectors."""

import json

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from matplotlib.figure import Figure

from ..comparison.comparison_file import Comparison
from ..comparison.run import Run
from .data import register_coco_json
from .figures import comparison_figure
from .metrics import read_scalars


def comparison_picture(comparison: Comparison) -> Figure:
    """Detections of the first validation images, beside the truth, and CKA over training.

    The images are the first ones of the data set, not chosen by what they show.
    """
    runs = {label: comparison.students[label][0] for label in comparison.picture["STUDENTS"]}
    cfg = comparison.students[comparison.baseline][0].config
    register_coco_json(cfg)
    name = cfg.DATASETS.TEST[0]
    dicts = DatasetCatalog.get(name)[: comparison.picture.get("IMAGES", 4)]
    metadata = MetadataCatalog.get(name)
    images = [cv2.imread(d["file_name"])[..., ::-1] for d in dicts]
    panels = {"ground truth": [_truth(d) for d in dicts]}
    to_class = metadata.thing_dataset_id_to_contiguous_id
    for label, run in runs.items():
        panels[label] = _detections(run, name, [d["image_id"] for d in dicts], to_class)
    scalars = {
        label: found
        for label, run in runs.items()
        if (found := read_scalars(run.output_dir / "metrics.json", "cka/"))
    }
    curves = {}
    for label, found in scalars.items():
        terms = {name.rsplit("_", 1)[0] for name in found}
        for name, curve in found.items():
            # The level alone says it where one run has curves, of one term.
            short = name.rsplit("_", 1)[-1] if len(terms) == 1 else name.removeprefix("cka/")
            curves[short if len(scalars) == 1 else f"{label}: {short}"] = curve
    return comparison_figure(
        images,
        panels,
        list(metadata.thing_classes),
        curves,
        comparison.title,
        truth="ground truth",
    )


def _truth(record: dict) -> dict:
    boxes = np.array([a["bbox"] for a in record["annotations"]], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "boxes": boxes,
        "classes": np.array([a["category_id"] for a in record["annotations"]], int),
        "scores": None,
    }


def _detections(run: Run, dataset: str, image_ids: list, to_class: dict) -> list[dict]:
    """A run's own COCO results, image by image."""
    path = run.output_dir / "inference" / dataset / "coco_instances_results.json"
    found = {image_id: [] for image_id in image_ids}
    for detection in json.loads(path.read_text()):
        if detection["image_id"] in found:
            found[detection["image_id"]].append(detection)
    panels = []
    for detections in found.values():
        boxes = np.array([d["bbox"] for d in detections], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = np.array([to_class[d["category_id"]] for d in detections], int)
        scores = np.array([d["score"] for d in detections], float)
        panels.append({"boxes": boxes, "classes": classes, "scores": scores})
    return panels
