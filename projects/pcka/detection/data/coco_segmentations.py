"""Checks of the segmentations of a COCO file: polygons and run-length codes."""

from typing import Any

from .coco_values import TOLERANCE, describe, image_sizes, is_number, is_whole, place


def check_segmentations(content: dict, *, masks: bool, mask_format: str) -> list[str]:
    """Return the problems of polygons and run-length codes.

    Args:
        content: a file that has passed the checks of its types and ids.
        masks: whether the model learns masks.
        mask_format: INPUT.MASK_FORMAT.
    """
    annotations, sizes = content["annotations"], image_sizes(content)
    given = [a for a in annotations if a.get("segmentation")]
    polygons = [a for a in given if not isinstance(a["segmentation"], dict)]
    encoded = [a for a in given if isinstance(a["segmentation"], dict)]
    problems = describe(
        "annotation(s) with malformed polygons, which detectron2 would drop (ids or lines)",
        [place(a) for a in polygons if not _are_polygons(a["segmentation"])],
        "a segmentation is a list of polygons [x1, y1, x2, y2, x3, y3, ...], or leave it out",
    )
    problems += describe(
        "annotation(s) with a run-length code that does not fill its image (ids or lines)",
        [place(a) for a in encoded if not _fills(a["segmentation"], sizes[a["image_id"]])],
        "size is [height, width] of the image, and counts add up to height times width",
    )
    if masks:
        problems += describe(
            "annotation(s) without segmentation (ids or lines)",
            [place(a) for a in annotations if not a.get("segmentation")],
            "a model with masks needs them: add them, or set MODEL.MASK_ON False",
        )
        problems += describe(
            "annotation(s) with polygons outside their image (ids or lines)",
            [
                place(a)
                for a in polygons
                if _are_polygons(a["segmentation"]) and _reaches_out(a, sizes[a["image_id"]])
            ],
            "polygons are [x1, y1, x2, y2, ...] in pixels from the upper left corner",
        )
    if masks and mask_format != "bitmask":
        problems += describe(
            "annotation(s) with run-length codes (ids or lines)",
            [place(a) for a in encoded if not a.get("iscrowd")],
            "set INPUT.MASK_FORMAT bitmask to train with them",
        )
    return problems


def _are_polygons(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(is_number, p))
        for p in value
    )


def _reaches_out(annotation: dict, size: tuple[int, int]) -> bool:
    return any(
        not -TOLERANCE <= value <= size[index % 2] + TOLERANCE
        for polygon in annotation["segmentation"]
        for index, value in enumerate(polygon)
    )


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
