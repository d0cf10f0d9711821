"""Pictures of the detections of finished runs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from matplotlib.figure import Figure

from pcka.detection.data.coco_json import check_datasets, register_coco_json
from pcka.detection.modeling.teacher import build_teacher
from pcka.errors import ConfigError
from pcka.experiments.pages.curves import short_names
from pcka.experiments.study.run import Run
from pcka.experiments.study.study import Study
from pcka.files import read_json

from .figures import comparison_figure
from .matching import Panel, above_threshold, difference
from .metrics import read_scalars

TRUTH = "ground truth"


class Evaluated(NamedTuple):
    """The images that a run was evaluated on."""

    name: str
    records: list[dict[str, Any]]  # detectron2's, one per image
    metadata: Any


def study_picture(study: Study) -> Figure:
    """Draw detections on the first validation images, beside the truth, and CKA over training.

    The images are the first ones of the data set, not chosen by what they show.
    """
    runs = {label: study.students[label][0] for label in study.picture["STUDENTS"]}
    data = evaluated(study.base.report[0].config)
    data = data._replace(records=data.records[: study.picture.get("IMAGES", 4)])
    scalars = {
        label: found
        for label, run in runs.items()
        if (found := read_scalars(run.output_dir / "metrics.json", "cka/"))
    }
    curves = {}
    for label, found in scalars.items():
        keys = short_names([name.removeprefix("cka/") for name in found])
        for name, curve in found.items():
            # The level alone is enough if one run has curves, of one term.
            short = keys[name.removeprefix("cka/")]
            curves[short if len(scalars) == 1 else f"{label}: {short}"] = curve
    panels = {label: detections(run, data) for label, run in runs.items()}
    return draw_detections(data, panels, curves=curves, title=study.title)


def draw_detections(data: Evaluated, panels: Mapping[str, Sequence[Panel]], **options) -> Figure:
    """Draw all images of ``data``, with the truth before the other panels."""
    images = [read_image(record["file_name"], format="RGB") for record in data.records]
    panels = {TRUTH: [truth(record) for record in data.records], **panels}
    names = list(data.metadata.thing_classes)
    return comparison_figure(images, panels, names, truth=TRUTH, **options)


def evaluated(cfg: CfgNode) -> Evaluated:
    """Return the images of DATASETS.TEST[0].

    Raises:
        ConfigError: there is no such data set, or its files are missing.
    """
    register_coco_json(cfg)
    name = cfg.DATASETS.TEST[0]
    problems = check_datasets(cfg, [name])
    if problems:
        raise ConfigError("\n".join(problems))
    return Evaluated(name, DatasetCatalog.get(name), MetadataCatalog.get(name))


def most_different(
    a: Sequence[Panel], b: Sequence[Panel], truths: Sequence[Panel], *, score_threshold: float = 0.5
) -> list[int]:
    """Order all images, first those on which ``a`` and ``b`` differ most (see ``difference``)."""
    scores = [
        difference(*(above_threshold(panel, score_threshold) for panel in image))
        for image in zip(a, b, truths, strict=True)
    ]
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def truth(record: dict[str, Any]) -> Panel:
    """Return the objects of one image, without crowds."""
    own = [a for a in record["annotations"] if not a.get("iscrowd")]
    boxes = np.array(
        [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in own], float
    )
    return {
        "boxes": boxes.reshape(-1, 4),
        "classes": np.array([a["category_id"] for a in own], int),
        "scores": None,
    }


def detections(run: Run, data: Evaluated) -> list[Panel]:
    """Read a run's own COCO results, image by image.

    Raises:
        ConfigError: the run was not evaluated on this data set, or its results are missing.
    """
    path = run.output_dir / "inference" / data.name / "coco_instances_results.json"
    if not path.is_file():
        raise ConfigError(
            f"{run.output_dir} holds no detections of {data.name} ({path.name} is missing): "
            "evaluate it on that data set (DATASETS.TEST)"
        )
    to_class = data.metadata.thing_dataset_id_to_contiguous_id
    found: dict[Any, list[dict]] = {record["image_id"]: [] for record in data.records}
    for detection in read_json(path):
        if detection["image_id"] in found:
            found[detection["image_id"]].append(detection)
    panels: list[Panel] = []
    for ours in found.values():
        boxes = np.array([d["bbox"] for d in ours], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = np.array([to_class[d["category_id"]] for d in ours], int)
        scores = np.array([d["score"] for d in ours], float)
        panels.append({"boxes": boxes, "classes": classes, "scores": scores})
    return panels


def teacher_detections(cfg: CfgNode, data: Evaluated) -> list[Panel]:
    """Compute the detections of a run's teacher on the images of ``data``.

    Raises:
        ConfigError: its weights are missing, or it cannot detect there.
    """
    teacher = build_teacher(cfg)
    classes = len(data.metadata.thing_classes)
    if teacher.missing_heads or teacher.num_classes != classes:
        raise ConfigError(
            f"the teacher cannot detect the {classes} classes of {data.name}: its weights are of a "
            "backbone alone, or of other classes"
        )
    mapper = DatasetMapper(cfg, is_train=False)
    panels: list[Panel] = []
    for record in data.records:
        [result] = teacher.detect([mapper(record)], teacher.model.device)
        found = result["instances"].to("cpu")
        panels.append(
            {
                "boxes": found.pred_boxes.tensor.numpy().astype(float),
                "classes": found.pred_classes.numpy(),
                "scores": found.scores.numpy(),
            }
        )
    return panels
