"""Checks of the content of a COCO file: types, ids, boxes and segmentations.

pycocotools and detectron2 take a file as it is; what is wrong in it ends a run hours later, or
changes its result without a word.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

_TOLERANCE = 2  # pixels by which a box may reach beyond its image
_LISTED = 5  # entries that a message names

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
_EVALUATION_RULES: dict[str, Rule] = {
    "area": (lambda v: is_number(v) and v > 0, "a number above 0, such as width times height"),
    "iscrowd": (lambda v: v in (0, 1), "0 or 1"),
}


def check_values(content: dict, *, masks: bool, mask_format: str) -> list[str]:
    """Return the problems of a COCO file, each with the ids of the entries and a remedy.

    Args:
        content: a file that has passed :func:`check_types`.
        masks: whether the model learns masks.
        mask_format: INPUT.MASK_FORMAT.
    """
    problems = _check_ids(content)
    if problems:  # the other checks look entries up by these ids
        return problems
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    annotations = content["annotations"]
    problems += _check_boxes(annotations, sizes)
    problems += _check_segmentations(annotations, sizes, masks, mask_format)
    problems += describe(
        "annotation(s) with `ignore`, which detectron2 refuses (ids or lines)",
        [_place(a) for a in annotations if a.get("ignore")],
        "drop them, or mark them as crowd (iscrowd 1) to leave them out of training and AP",
    )
    problems += describe(
        "annotation(s) with keypoints that are not triples of numbers (ids or lines)",
        [_place(a) for a in annotations if not _are_keypoints(a.get("keypoints") or [])],
        "keypoints are [x, y, visibility, ...]",
    )
    if all(a.get("iscrowd") for a in annotations):
        problems.append("no annotations at all (but crowds): nothing to learn or to measure")
    return problems


def describe(what: str, bad: Iterable, remedy: str) -> list[str]:
    """Return one problem that counts and lists its entries, or none if ``bad`` is empty."""
    bad = list(bad)
    if not bad:
        return []
    shown = ", ".join(map(str, bad[:_LISTED])) + (", ..." if len(bad) > _LISTED else "")
    return [f"{len(bad)} {what}: {shown}: {remedy}"]


def check_types(content: dict, *, evaluated: bool) -> list[str]:
    """Return the entries of a COCO file that lack a key, or have a value of a wrong kind.

    Args:
        content: with the lists ``images``, ``annotations`` and ``categories``.
        evaluated: whether the data set is evaluated on, which takes ``area`` and ``iscrowd``.
    """
    problems = []
    for name, rules in _RULES.items():
        entries = content[name]
        odd = [index for index, entry in enumerate(entries) if not isinstance(entry, dict)]
        if odd:
            problems += describe(f"entries of {name} are no mappings", odd, "write {...}")
            continue
        if name == "annotations" and evaluated:
            rules = {**rules, **_EVALUATION_RULES}
        for key, (fits, wanted) in rules.items():
            bad = [
                f"{_label(entry, index)} ({_shown(entry, key)})"
                for index, entry in enumerate(entries)
                if key not in entry or not fits(entry[key])
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


def _place(annotation: dict) -> Any:
    """Return where the user finds an annotation: file and line, or its id in a COCO file."""
    return annotation.get(READ_FROM, annotation["id"])


def _check_ids(content: dict) -> list[str]:
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
            [_place(a) for a in annotations if a["image_id"] not in image_ids],
            "add the image or drop them",
        ),
        *describe(
            "annotation(s) of a category that is not listed (ids or lines)",
            [_place(a) for a in annotations if a["category_id"] not in category_ids],
            "add it to categories or drop them",
        ),
    ]


def _twice(entries: list[dict], key: str) -> list:
    return [value for value, n in Counter(entry[key] for entry in entries).items() if n > 1]


def _check_boxes(annotations: list[dict], sizes: dict) -> list[str]:
    boxes = {_place(a): (*a["bbox"], *sizes[a["image_id"]]) for a in annotations}
    if boxes and all(max(x, y, w, h) <= 1 for x, y, w, h, _, _ in boxes.values()):
        return describe(
            "box(es) lie between 0 and 1 (ids or lines)",
            boxes,
            "boxes are in pixels: multiply by the width and the height of the image",
        )
    flat = [i for i, (_, _, w, h, _, _) in boxes.items() if not (w > 0 and h > 0)]
    outside = [
        i
        for i, (x, y, w, h, width, height) in boxes.items()
        if min(x, y) < -_TOLERANCE or x + w > width + _TOLERANCE or y + h > height + _TOLERANCE
    ]
    remedy = "boxes are [x, y, width, height] in pixels from the upper left corner"
    if outside and all(
        0 <= x < right <= width + _TOLERANCE and 0 <= y < bottom <= height + _TOLERANCE
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


def _check_segmentations(
    annotations: list[dict], sizes: dict, masks: bool, mask_format: str
) -> list[str]:
    given = [a for a in annotations if a.get("segmentation")]
    polygons = [a for a in given if not isinstance(a["segmentation"], dict)]
    encoded = [a for a in given if isinstance(a["segmentation"], dict)]
    problems = describe(
        "annotation(s) with malformed polygons, which detectron2 would drop (ids or lines)",
        [_place(a) for a in polygons if not _are_polygons(a["segmentation"])],
        "a segmentation is a list of polygons [x1, y1, x2, y2, x3, y3, ...], or leave it out",
    )
    problems += describe(
        "annotation(s) with a run-length code that does not fill its image (ids or lines)",
        [_place(a) for a in encoded if not _fills(a["segmentation"], sizes[a["image_id"]])],
        "size is [height, width] of the image, and counts add up to height times width",
    )
    if masks:
        problems += describe(
            "annotation(s) without segmentation (ids or lines)",
            [_place(a) for a in annotations if not a.get("segmentation")],
            "a model with masks needs them: add them, or set MODEL.MASK_ON False",
        )
    if masks and mask_format != "bitmask":
        problems += describe(
            "annotation(s) with run-length codes (ids or lines)",
            [_place(a) for a in encoded if not a.get("iscrowd")],
            "set INPUT.MASK_FORMAT bitmask to train with them",
        )
    return problems


def _are_polygons(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(is_number, p))
        for p in value
    )


def _are_keypoints(value: Any) -> bool:
    return isinstance(value, list) and len(value) % 3 == 0 and all(map(is_number, value))


def _fills(code: dict, size: tuple[int, int]) -> bool:
    """Return whether a run-length code has the size of its image and as many pixels."""
    width, height = size
    counts = code.get("counts")
    if isinstance(counts, str):
        counts = _decoded(counts)
    return (
        code.get("size") == [height, width]
        and isinstance(counts, list)
        and all(is_whole(count) and count >= 0 for count in counts)
        and sum(counts) == height * width
    )


def _decoded(text: str) -> list[int] | None:
    """Return the counts of pycocotools' compressed code, None where it is no such code.

    Each count is written in groups of 5 bits, the lowest first, as characters from "0" on. Bit 5
    says that another group follows. From the fourth count on, the difference from the count two
    before is written.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return None if shift else counts
