"""Matching the detections of one image with its truth.

Letters: n detections, m objects.
"""

from typing import TypedDict

import numpy as np


class Panel(TypedDict):
    """The boxes that are drawn on one image."""

    boxes: np.ndarray  # (n, 4) xyxy in pixels
    classes: np.ndarray  # (n,)
    scores: np.ndarray | None  # (n,); None for the truth


def match(panel: Panel, reference: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Match detections with the truth of one image.

    Returns:
        ``(n,)`` bool, which detections are right: as in COCO at IoU 0.5, by falling score, each
        object once. ``(m,)`` bool, which objects are missed: no detection of any class covers them.
    """
    ious = _ious(panel, reference)
    right = np.asarray(_assign(panel, reference, ious) >= 0)
    return right, np.logical_not(np.any(ious >= 0.5, axis=0))


def difference(a: Panel, b: Panel, reference: Panel) -> int:
    """Return how much two detectors differ on one image, whichever is better.

    The result is the number of objects that only one of them gets right (see ``match``), plus the
    difference between their numbers of wrong detections. Compared with the truth itself
    (``b = reference``) it is the number of mistakes of ``a``.
    """
    found, wrong = [], []
    for panel in (a, b):
        objects = _assign(panel, reference, _ious(panel, reference))
        found.append(set(objects[objects >= 0].tolist()))
        wrong.append(int((objects < 0).sum()))
    return len(found[0] ^ found[1]) + abs(wrong[0] - wrong[1])


def _ious(panel: Panel, reference: Panel) -> np.ndarray:
    """Return the IoU of every detection with every object, ``(n, m)``."""
    ious = np.array([_iou(box, reference["boxes"]) for box in panel["boxes"]])
    return ious.reshape(len(panel["boxes"]), len(reference["boxes"]))


def _assign(panel: Panel, reference: Panel, ious: np.ndarray) -> np.ndarray:
    """Return the object that each detection is right about, or -1: ``(n,)``."""
    classes, scores = panel["classes"], panel["scores"]
    objects = np.full(len(classes), -1)
    taken = np.zeros(len(reference["boxes"]), dtype=np.bool_)
    for i in np.argsort(-scores, kind="stable") if scores is not None else range(len(classes)):
        free = np.where(taken | (reference["classes"] != classes[i]), 0, ious[i])
        if len(free) and free.max() >= 0.5:
            objects[i] = free.argmax()
            taken[objects[i]] = True
    return objects


def above_threshold(panel: Panel, score_threshold: float) -> Panel:
    """Return the panel as arrays, without detections below the threshold."""
    boxes = np.asarray(panel["boxes"], float).reshape(-1, 4)
    classes, scores = np.asarray(panel["classes"], int), panel.get("scores")
    if scores is None:
        return {"boxes": boxes, "classes": classes, "scores": None}
    keep = np.asarray(scores) >= score_threshold
    return {"boxes": boxes[keep], "classes": classes[keep], "scores": np.asarray(scores)[keep]}


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the IoU of one xyxy box ``(4,)`` with others ``(n, 4)``: ``(n,)``."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    inner = (high - low).clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return inner / (areas - inner).clip(1e-9)
