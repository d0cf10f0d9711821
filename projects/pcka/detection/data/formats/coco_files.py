"""Ids, categories and names of images, which the COCO exports of all tools have in common."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcka.detection.data.coco_values import (
    LISTS,
    READ_FROM,
    check_lists,
    check_types,
    describe,
    is_whole,
)

from .export import Export, relative, upright_size


def read_coco_files(
    folder: Path, files: dict[str, Path], image_folders: dict[str, Sequence[Path]]
) -> Export:
    """Read one COCO file a split.

    Annotation ids from 0 are renumbered, sizes that are null are read from the images, categories
    that no split uses are dropped, and all splits get one list of categories, matched by name.

    Args:
        folder: the folder that the names of images in the result start from.
        files: split -> its COCO file.
        image_folders: split -> the folders in which its images are looked for, the likeliest first.
    """
    export = Export()
    for split, path in files.items():
        content, problems = _read(path)
        name = relative(path, folder)
        if content is not None:
            _renumber(content, name, export)
            _add_sizes(content["images"], image_folders[split], name, export)
            problems = check_types(content, evaluated=False)
        export.problems += [f"{path}: {problem}" for problem in problems]
        if content is not None and not problems:
            _place_images(content["images"], folder, image_folders[split], path, export)
            export.splits[split] = content
    if not export.problems:
        _unify_categories(export, files)
    return export


def _read(path: Path) -> tuple[dict | None, list[str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        return None, [f"is not JSON: {error}: export it again"]
    if problem := check_lists(content):
        return None, [problem]
    return {key: content[key] for key in LISTS}, []


def _renumber(content: dict, name: str, export: Export) -> None:
    """Let annotation ids start at 1: pycocotools reads the id 0 as "no match"."""
    annotations = [a for a in content["annotations"] if isinstance(a, dict)]
    ids: list[Any] = [a.get("id") for a in annotations]
    for annotation, identity in zip(annotations, ids, strict=True):
        annotation[READ_FROM] = f"{name}: annotation id {identity!r:.20}"
    if not ids or not all(map(is_whole, ids)) or min(ids) > 0:
        return
    number = {identity: n for n, identity in enumerate(sorted(set(ids)), 1)}
    for annotation in annotations:
        annotation["id"] = number[annotation["id"]]
    export.notes.append(
        f"{name}: annotation ids start at {min(ids)}; they are renumbered from 1, as pycocotools "
        "takes the id 0 for no match"
    )


def _add_sizes(images: list, candidates: Sequence[Path], name: str, export: Export) -> None:
    """Read the sizes of images that are null, as Label Studio writes where it knows none."""
    added = 0
    for image in images:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            continue
        if image.get("width") is None or image.get("height") is None:
            size = upright_size(_find_image(image["file_name"], candidates))
            if size:
                image["width"], image["height"] = size
                added += 1
    if added:
        export.notes.append(f"{name}: {added} images without a size: it is read from the files")


def _place_images(
    images: list[dict], folder: Path, candidates: Sequence[Path], path: Path, export: Export
) -> None:
    """Let the file names start from the folder."""
    taken: dict[str, str] = {}
    for image in images:
        written = image["file_name"]
        place = _find_image(written, candidates)
        image["file_name"] = found = relative(place, folder)
        if taken.setdefault(found, written) != written and os.path.isfile(place):
            export.problems.append(
                f"{path}: the images {taken[found]!r} and {written!r} are both found as {found}: "
                "put them into the folders that the file names"
            )


def _find_image(written: str, candidates: Sequence[Path]) -> Path:
    """Return where an image lies; tools write paths of their own machine, some with backslashes."""
    parts = [part for part in written.replace("\\", "/").split("/") if part not in ("", ".")]
    tails = [parts[n:] for n in range(len(parts))]
    names = [Path(*tail) for tail in tails if ".." not in tail and ":" not in tail[0]]
    names = names or [Path("_")]  # an image that is missing
    places = [root / name for name in names for root in candidates]
    return next((place for place in places if os.path.isfile(place)), candidates[0] / names[-1])


def _unify_categories(export: Export, files: dict[str, Path]) -> None:
    """Give all splits one list of the categories that annotations use, numbered from 1."""
    listed: dict[tuple[int, str], None] = {}  # in the order of the ids
    used: set[tuple[int, str]] = set()
    for split, content in export.splits.items():
        categories = sorted((c["id"], c["name"]) for c in content["categories"])
        ids = {a["category_id"] for a in content["annotations"]}
        here = [pair for pair in categories if pair[0] in ids]
        export.problems += [f"{files[split]}: {problem}" for problem in _check_used(here, ids)]
        listed.update(dict.fromkeys(categories))
        used.update(here)
    number: dict[str, int] = {}
    for pair in listed:
        if pair in used:
            number.setdefault(pair[1], len(number) + 1)
    dropped = [f"{name!r} (id {identity})" for identity, name in listed.keys() - used]
    if dropped:
        export.notes.append(
            f"categories that no annotation uses are dropped: {', '.join(sorted(dropped))}"
        )
    for content in export.splits.values():
        names = dict(sorted((c["id"], c["name"]) for c in content["categories"]))
        for annotation in content["annotations"]:
            annotation["category_id"] = number.get(names.get(annotation["category_id"], ""), 0)
        content["categories"] = [{"id": i, "name": name} for name, i in number.items()]


def _check_used(used: list[tuple[int, str]], ids: set[int]) -> list[str]:
    """Return the problems of the categories of a file, ``(id, name)``, that annotations use."""
    known, names = [identity for identity, _ in used], [name for _, name in used]
    return [
        *describe(
            "category(ies) of annotations are not listed (ids)",
            sorted(ids - set(known)),
            "add them to categories or drop the annotations",
        ),
        *describe(
            "category id(s) used twice",
            sorted({i for i in known if known.count(i) > 1}),
            "give each category an id of its own",
        ),
        *describe(
            "category name(s) used twice",
            sorted({n for n in names if names.count(n) > 1}),
            "give each category a name of its own",
        ),
    ]
