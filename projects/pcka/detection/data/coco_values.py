"""Checks of the content of a COCO file: types, ids and boxes.

pycocotools and detectron2 take a file as it is; what is wrong in it ends a run hours later, or
changes its result without a word.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

TOLERANCE = 2  # pixels by which a box may reach beyond its image
_FLAT = 1e-5  # pixels; detectron2 drops boxes that are no wider or higher
_LISTED = 5  # entries that a message names

LISTS = ("images", "annotations", "categories")
READ_FROM = "_pcka_read_from"  # key of an annotation of another format: its file and line

_SINGULAR = {"images": "image(s)", "categories": "category(ies)", "annotations": "annotation(s)"}

# Keys of each list, and the test and the description of their values.
Rule = tuple[Callable[[Any], bool], str]


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_RULES: dict[str, dict[str, Rule]] = {
    "images": {
        "id": (lambda v: is_whole(v) or _is_name(v), "a whole number or a text"),
        "file_name": (_is_name, "a text"),
        "width": (lambda v: is_number(v) and v > 0 and v == int(v), "a whole number above 0"),
        "height": (lambda v: is_number(v) and v > 0 and v == int(v), "a whole number above 0"),
    },
    "categories": {
        "id": (is_whole, "a whole number"),
        "name": (_is_name, "a text"),
    },
    "annotations": {
        # pycocotools reads the id 0 as "no match".
        "id": (lambda v: is_whole(v) and v > 0, "a whole number from 1 up"),
        "image_id": (lambda v: is_whole(v) or _is_name(v), "the id of an image"),
        "category_id": (is_whole, "the id of a category"),
        "bbox": (
            lambda v: isinstance(v, list) and len(v) == 4 and all(map(is_number, v)),
            "[x, y, width, height], four finite numbers",
        ),
    },
}
_CROWD: Rule = (lambda v: v in (0, 1), "0 or 1")
# detectron2 leaves out whatever is not 0, and takes 0 where there is nothing.
_TRAINING_RULES: dict[str, Rule] = {"iscrowd": _CROWD}
_EVALUATION_RULES: dict[str, Rule] = {
    "area": (lambda v: is_number(v) and v > 0, "a number above 0, such as width times height"),
    "iscrowd": _CROWD,
}


def check_values(content: dict) -> list[str]:
    """Return the problems of boxes and marks, each with the ids of the entries and a remedy.

    Args:
        content: a file that has passed :func:`check_types` and :func:`check_ids`.
    """
    annotations = content["annotations"]
    problems = _check_boxes(annotations, image_sizes(content))
    problems += describe(
        "annotation(s) with `ignore`, which detectron2 refuses (ids or lines)",
        [place(a) for a in annotations if a.get("ignore")],
        "drop them, or mark them as crowd (iscrowd 1) to leave them out of training and AP",
    )
    problems += describe(
        "annotation(s) with keypoints that are not triples of numbers (ids or lines)",
        [place(a) for a in annotations if not _are_keypoints(a.get("keypoints") or [])],
        "keypoints are [x, y, visibility, ...]",
    )
    if all(a.get("iscrowd") for a in annotations):
        problems.append("no annotations at all (but crowds): nothing to learn or to measure")
    return problems


def image_sizes(content: dict) -> dict[Any, tuple[int, int]]:
    """Return width and height of the images by id."""
    return {image["id"]: (image["width"], image["height"]) for image in content["images"]}


def describe(what: str, bad: Iterable, remedy: str) -> list[str]:
    """Return one problem that counts and lists its entries, or none if ``bad`` is empty."""
    bad = list(bad)
    if not bad:
        return []
    shown = ", ".join(map(str, bad[:_LISTED])) + (", ..." if len(bad) > _LISTED else "")
    return [f"{len(bad)} {what}: {shown}: {remedy}"]


def check_lists(content: Any) -> str:
    """Return why the content of a file is not COCO, "" if it has the three lists."""
    if isinstance(content, dict) and all(isinstance(content.get(k), list) for k in LISTS):
        return ""
    return f"is not COCO: it needs the lists {', '.join(LISTS)}"


def check_types(content: dict, *, evaluated: bool) -> list[str]:
    """Return the entries of a COCO file that lack a key, or have a value of a wrong kind.

    Args:
        content: a COCO file with the lists ``images``, ``annotations`` and ``categories``.
        evaluated: whether the data set is evaluated on, which takes ``area`` and ``iscrowd``.
    """
    problems = []
    for name, rules in _RULES.items():
        entries = content[name]
        odd = [index for index, entry in enumerate(entries) if not isinstance(entry, dict)]
        if odd:
            problems += describe(f"entries of {name} are no mappings", odd, "write {...}")
            continue
        optional: dict[str, Rule] = {}
        if name == "annotations":
            rules = {**rules, **_EVALUATION_RULES} if evaluated else rules
            optional = {} if evaluated else _TRAINING_RULES
        for key, (fits, wanted) in (rules | optional).items():
            bad = [
                f"{_label(entry, index)} ({_shown(entry, key)})"
                for index, entry in enumerate(entries)
                if (not fits(entry[key]) if key in entry else key not in optional)
            ]
            problems += describe(
                f"{_SINGULAR[name]} with no {key} or a wrong one (ids)", bad, f"{key} is {wanted}"
            )
    return problems


def _label(entry: dict, index: int) -> str:
    identity = entry.get(READ_FROM, entry.get("id"))
    return str(identity) if is_whole(identity) or _is_name(identity) else f"number {index}"


def _shown(entry: dict, key: str) -> str:
    return f"{entry[key]!r:.40}" if key in entry else "absent"


def place(annotation: dict) -> Any:
    """Return where the user finds an annotation: file and line, or its id in a COCO file."""
    return annotation.get(READ_FROM, annotation["id"])


def check_ids(content: dict) -> list[str]:
    """Return the ids and names that stand twice, or for nothing."""
    images, annotations, categories = (
        content[name] for name in ("images", "annotations", "categories")
    )
    image_ids = {image["id"] for image in images}
    category_ids = {category["id"] for category in categories}
    texts = [i for i in image_ids if isinstance(i, str)]
    return [
        *describe(
            "image id(s) are texts and the others are numbers",
            texts if len(texts) < len(image_ids) else [],
            "use ids of one type",
        ),
        *describe(
            "image id(s) used twice", _twice(images, "id"), "give each image an id of its own"
        ),
        *describe(
            "annotation id(s) used twice",
            _twice(annotations, "id"),
            "give each annotation an id of its own",
        ),
        *describe(
            "category id(s) used twice",
            _twice(categories, "id"),
            "give each category an id of its own",
        ),
        *describe(
            "category name(s) used twice",
            _twice(categories, "name"),
            "give each category a name of its own",
        ),
        *describe(
            "annotation(s) of an image that is not listed (ids or lines)",
            [place(a) for a in annotations if a["image_id"] not in image_ids],
            "add the image or drop them",
        ),
        *describe(
            "annotation(s) of a category that is not listed (ids or lines)",
            [place(a) for a in annotations if a["category_id"] not in category_ids],
            "add it to categories or drop them",
        ),
    ]


def _twice(entries: list[dict], key: str) -> list:
    return [value for value, n in Counter(entry[key] for entry in entries).items() if n > 1]


def _check_boxes(annotations: list[dict], sizes: dict) -> list[str]:
    boxes = {place(a): (*a["bbox"], *sizes[a["image_id"]]) for a in annotations}
    if boxes and all(max(x, y, w, h) <= 1 for x, y, w, h, _, _ in boxes.values()):
        return describe(
            "box(es) lie between 0 and 1 (ids or lines)",
            boxes,
            "boxes are in pixels: multiply by the width and the height of the image",
        )
    flat = [i for i, (_, _, w, h, _, _) in boxes.items() if min(w, h) <= _FLAT]
    outside = [
        i
        for i, (x, y, w, h, width, height) in boxes.items()
        if min(x, y) < -TOLERANCE or x + w > width + TOLERANCE or y + h > height + TOLERANCE
    ]
    remedy = "boxes are [x, y, width, height] in pixels from the upper left corner"
    if outside and all(
        0 <= x < right <= width + TOLERANCE and 0 <= y < bottom <= height + TOLERANCE
        for x, y, right, bottom, width, height in boxes.values()
    ):
        remedy = (
            "all boxes of this file fit as [left, top, right, bottom]: if they are corners, write "
            "[left, top, right - left, bottom - top]"
        )
    return [
        *describe(
            "box(es) without area (ids or lines)",
            flat,
            "boxes are [x, y, width, height] in pixels, width and height above 0",
        ),
        *describe("box(es) outside their image (ids or lines)", outside, remedy),
    ]


def _are_keypoints(value: Any) -> bool:
    return isinstance(value, list) and len(value) % 3 == 0 and all(map(is_number, value))
