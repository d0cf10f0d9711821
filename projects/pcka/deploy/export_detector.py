"""A detector in the form in which it is exported: one image in, boxes, scores and classes out.

Letters: H, W height and width of the image as the network reads it; N detections; M pixels a side
of a mask.
"""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.transforms import ResizeTransform
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn

from pcka.detection.data.coco_json import register_coco_json
from pcka.errors import ConfigError

from .comparison import CutOff
from .detector import TrainedDetector
from .exported_file import Traceable

logger = logging.getLogger(__name__)

Size = tuple[int, int]

_ARCHITECTURES = ("GeneralizedRCNN", "RetinaNet", "FCOS")
_ROI_HEADS = ("StandardROIHeads", "CascadeROIHeads", "Res5ROIHeads")


def traceable_detector(detector: TrainedDetector, image: Tensor, size: Size | None) -> Traceable:
    """Return a detector as a module: ``(3, H, W)`` -> boxes, scores, classes, and masks if any.

    The input is float32 from 0 to 255 in the channel order of ``INPUT.FORMAT``. Outputs are
    ``boxes`` ``(N, 4)`` (x0, y0, x1, y1 in pixels of the input), ``scores`` ``(N,)``, ``classes``
    ``(N,)`` int64 and ``masks`` ``(N, 1, M, M)``, probabilities inside each box.

    Args:
        detector: on the CPU.
        image: an input that is traced.
        size: H and W, if they are fixed.

    Raises:
        ConfigError: a detector that cannot be exported; names it.
    """
    _check_supported(detector)
    outputs = ["boxes", "scores", "classes", *(["masks"] if _has_masks(detector) else [])]
    module = TracingAdapter(detector.model, [{"image": image}], _detect).eval()
    dynamic: dict[str, dict[int, str]] = {name: {0: "detections"} for name in outputs}
    if size is None:
        dynamic["image"] = {1: "height", 2: "width"}
    cut_off = CutOff(_least_score(detector), detector.cfg.TEST.DETECTIONS_PER_IMAGE)
    return Traceable(_name(detector), module, image, outputs, dynamic, cut_off=cut_off)


def sample_inputs(detector: TrainedDetector, count: int, size: Size | None) -> tuple[list, str]:
    """Return the first validation images as inputs, and the name of their data set.

    Where the data are not here, the images are noise.
    """
    name = next(iter(detector.cfg.DATASETS.TEST), "")
    try:
        register_coco_json(detector.cfg)
        records = DatasetCatalog.get(name)[:count]
        images = [detector.read(record["file_name"]) for record in records]
    except (ConfigError, OSError, KeyError, ValueError, AssertionError) as error:
        logger.warning("no validation images (%s): the file is checked on noise", error)
        name, images = "noise", list(_noise(detector, count))
    return [_as_input(detector, image, size) for image in images], name


def _as_input(detector: TrainedDetector, image: np.ndarray, size: Size | None) -> Tensor:
    """Return ``(3, H, W)`` float32: resized as in evaluation, or into ``size`` and padded."""
    if size is None:
        return detector.input_of(image)["image"].float()
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    h, w = max(1, round(scale * height)), max(1, round(scale * width))
    resized = ResizeTransform(height, width, h, w).apply_image(image)
    mean = torch.tensor(detector.cfg.MODEL.PIXEL_MEAN).view(-1, 1, 1)
    padded = mean.expand(-1, *size).clone()
    padded[:, :h, :w] = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    return padded


def describe_detector(detector: TrainedDetector, size: Size | None) -> dict[str, Any]:
    """Return what a program has to know to feed the file and to read its results."""
    cfg = detector.cfg
    if size is None:
        resize = {"shorter_side": cfg.INPUT.MIN_SIZE_TEST, "at_most": cfg.INPUT.MAX_SIZE_TEST}
        shape: list[int | str] = [3, "height", "width"]
    else:
        shape = [3, *size]
        resize = {"fit_into": list(size), "pad": "right and below, with the pixel mean"}
    outputs = {
        "boxes": "(N, 4) float32: x0, y0, x1, y1 in pixels of the input",
        "scores": "(N,) float32",
        "classes": "(N,) int64: places in the list of classes",
        "masks": "(N, 1, M, M) float32: probabilities inside each box",
    }
    if not _has_masks(detector):
        del outputs["masks"]
    return {
        "architecture": _name(detector),
        "classes": list(detector.classes),
        "category_ids": list(detector.category_ids),
        "input": {
            "name": "image",
            "shape": shape,
            "type": "float32, from 0 to 255",
            "channels": cfg.INPUT.FORMAT,
            "resize": resize,
        },
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "normalization": "in the file",
        "outputs": outputs,
        "least_score": _least_score(detector),
    }


def _detect(model: nn.Module, inputs: list[dict[str, Tensor]]) -> tuple[Tensor, ...]:
    """Run a detector on one image, with results in pixels of that image."""
    if isinstance(model, GeneralizedRCNN):
        # Pasting masks into the image would not be traced; the caller does it.
        found = model.inference(inputs, do_postprocess=False)[0]
    else:
        found = model(inputs)[0]["instances"]
    masks = (found.pred_masks,) if found.has("pred_masks") else ()
    return (found.pred_boxes.tensor, found.scores, found.pred_classes, *masks)


def _check_supported(detector: TrainedDetector) -> None:
    model, name = detector.cfg.MODEL, detector.architecture
    reason = ""
    if name not in _ARCHITECTURES:
        reason = f"a {name}"
    elif name == "GeneralizedRCNN" and model.ROI_HEADS.NAME not in _ROI_HEADS:
        reason = f"MODEL.ROI_HEADS.NAME {model.ROI_HEADS.NAME}"
    elif name == "GeneralizedRCNN" and model.PROPOSAL_GENERATOR.NAME != "RPN":
        reason = f"MODEL.PROPOSAL_GENERATOR.NAME {model.PROPOSAL_GENERATOR.NAME}"
    elif model.KEYPOINT_ON:
        reason = "MODEL.KEYPOINT_ON"
    if reason:
        raise ConfigError(
            f"{reason} cannot be exported: Faster, Mask and Cascade R-CNN, RetinaNet and FCOS can"
        )


def _least_score(detector: TrainedDetector) -> float:
    head = {"RetinaNet": "RETINANET", "FCOS": "FCOS"}.get(detector.architecture, "ROI_HEADS")
    return float(detector.cfg.MODEL[head].SCORE_THRESH_TEST)


def _name(detector: TrainedDetector) -> str:
    heads = f" with {detector.cfg.MODEL.ROI_HEADS.NAME}"
    return detector.architecture + (heads if detector.architecture == "GeneralizedRCNN" else "")


def _has_masks(detector: TrainedDetector) -> bool:
    return detector.architecture == "GeneralizedRCNN" and detector.cfg.MODEL.MASK_ON


def _noise(detector: TrainedDetector, count: int) -> Iterator[np.ndarray]:
    """Yield images of noise, of two shapes, that are not resized."""
    side = detector.cfg.INPUT.MIN_SIZE_TEST or 256
    g = np.random.default_rng(0)
    for number in range(count):
        shape = (side, side * 5 // 4) if number % 2 else (side * 5 // 4, side)
        yield g.integers(0, 256, (*shape, 3), dtype=np.uint8)
