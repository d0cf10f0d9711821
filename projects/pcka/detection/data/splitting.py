"""A validation set that is taken from the training images, where a folder has none."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

from .formats.export import Export

_VALID_FRACTION = 0.2


def split_training(export: Export, fraction: float | None, seed: int) -> None:
    """Make a validation set of a part of the training images, where there is none.

    The file names and the seed alone decide which. Versions of one image that Roboflow augments
    (``NAME.rf.HASH.jpg``) stay on one side.

    Args:
        export: changed in place.
        fraction: the share of the images, 0 for no validation set; None takes a fifth where there
            is none.
        seed: another one gives another selection.
    """
    content = export.splits.get("train")
    if "valid" in export.splits or content is None:
        if fraction:
            export.problems.append(
                "VALID_FRACTION is set, but the folder has a validation set or no training set: "
                "drop VALID_FRACTION"
            )
        return
    fraction = _VALID_FRACTION if fraction is None else fraction
    if not fraction:
        return
    groups: dict[str, list[dict]] = {}
    for image in content["images"]:
        groups.setdefault(image["file_name"].split(".rf.")[0], []).append(image)
    if len(groups) < 2:
        export.problems.append(
            f"{len(groups)} image(s) cannot be split into training and validation: add images, or "
            "set VALID_FRACTION: 0"
        )
        return
    drawn = sorted(groups, key=lambda g: hashlib.sha256(f"{seed}:{g}".encode()).digest())
    wanted = max(1, math.floor(fraction * len(content["images"]) + 0.5))
    chosen: set = set()
    for group in drawn[:-1]:
        if len(chosen) >= wanted:
            break
        chosen.update(image["id"] for image in groups[group])
    export.splits = {
        "train": _part(content, lambda identity: identity not in chosen),
        "valid": _part(content, lambda identity: identity in chosen),
        **{split: part for split, part in export.splits.items() if split != "train"},
    }
    export.notes.append(
        f"no validation set: {len(chosen)} of {len(content['images'])} images are taken from "
        f"training (VALID_FRACTION {fraction}, SEED {seed})"
    )


def _part(content: dict, keeps: Callable[[Any], bool]) -> dict:
    """Return the images that a test of ids keeps, with their annotations."""
    return {
        "images": [image for image in content["images"] if keeps(image["id"])],
        "annotations": [a for a in content["annotations"] if keeps(a["image_id"])],
        "categories": content["categories"],
    }
