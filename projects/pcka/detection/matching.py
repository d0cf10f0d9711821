"""Detections of one image held against its truth.

Letters: n detections, m objects. A panel is ``{"boxes": (n, 4) xyxy in pixels, "classes": (n,),
"scores": (n,) or None}``.
"""

from collections.abc import Mapping

import numpy as np

Panel = Mapping[str, np.ndarray | None]


def match(panel: Panel, reference: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Hold detections against the truth of one image.

    Returns:
        ``(n,)`` bool, which detections are right: as in COCO at IoU 0.5, by falling score, each
        object once. ``(m,)`` bool, which objects are missed: no detection of any class is there.
    """
    boxes, classes, scores = panel["boxes"], panel["classes"], panel["scores"]
    ious = np.array([_iou(box, reference["boxes"]) for box in boxes])
    ious = ious.reshape(len(boxes), len(reference["boxes"]))
    right = np.zeros(len(boxes), bool)
    taken = np.zeros(len(reference["boxes"]), bool)
    for i in np.argsort(-scores, kind="stable") if scores is not None else range(len(boxes)):
        free = np.where(taken | (reference["classes"] != classes[i]), 0, ious[i])
        if len(free) and free.max() >= 0.5:
            right[i] = taken[free.argmax()] = True
    return right, ~(ious >= 0.5).any(0)


def above_threshold(panel: Panel, score_threshold: float) -> Panel:
    """The panel as arrays, without detections below the threshold."""
    boxes = np.asarray(panel["boxes"], float).reshape(-1, 4)
    classes, scores = np.asarray(panel["classes"], int), panel.get("scores")
    if scores is None:
        return {"boxes": boxes, "classes": classes, "scores": None}
    keep = np.asarray(scores) >= score_threshold
    return {"boxes": boxes[keep], "classes": classes[keep], "scores": np.asarray(scores)[keep]}


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of one xyxy box ``(4,)`` with others ``(n, 4)`` -> ``(n,)``."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    inner = (high - low).clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return inner / (areas - inner).clip(1e-9)
