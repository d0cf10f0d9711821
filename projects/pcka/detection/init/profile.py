"""The content of a folder of data: its splits, classes, and the sizes of images and boxes."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from pcka.detection.config import add_pcka_config
from pcka.detection.data.folders import folder_names, folder_problems, register_folders
from pcka.detection.data.formats.export import SPLITS
from pcka.errors import ConfigError


@dataclass(frozen=True)
class Profile:
    """The data of a folder, as ``DATASETS.FOLDERS`` reads it.

    Attributes:
        name: the NAME of the folder in a config.
        path: the folder.
        images: the number of images by data set, such as ``{"wagons_train": 275}``.
        classes: the number of boxes in the training images by class, in the order of the labels.
        sizes: ``(n, 2)`` height and width of the training images in pixels.
        boxes: ``(m, 3)`` width and height of the training boxes in pixels, and the row of their
            image in ``sizes``.
        masks: whether every box has a mask.
    """

    name: str
    path: str
    images: dict[str, int]
    classes: dict[str, int]
    sizes: np.ndarray
    boxes: np.ndarray
    masks: bool

    @property
    def train(self) -> str:
        """The data set to train on."""
        return f"{self.name}_train"

    @property
    def valid(self) -> str:
        """The data set to evaluate on: the validation set, else the test set."""
        return next(n for n in (f"{self.name}_valid", f"{self.name}_test") if n in self.images)


def read_profile(folder: str) -> Profile:
    """Look at a folder of data.

    Raises:
        ConfigError: no known format, a fault in the data, no training or validation images, or no
            boxes.
    """
    path = Path(folder).expanduser()
    name = re.sub(r"[^A-Za-z0-9]+", "_", path.resolve().name).strip("_") or "data"
    if any(f"{name}_{split}" in DatasetCatalog.list() for split in SPLITS):
        name += "_data"  # such as that of the embedded digits
    cfg = get_cfg()
    add_pcka_config(cfg)
    cfg.DATASETS.FOLDERS = [{"NAME": name, "PATH": str(path)}]
    register_folders(cfg)
    names = folder_names(cfg)
    if problems := [p for n in names for p in folder_problems(cfg, n) or []]:
        raise ConfigError(f"{path}: {problems[0]}")
    dicts = {n: DatasetCatalog.get(n) for n in names}
    images = {n: len(found) for n, found in dicts.items() if found}
    if f"{name}_train" not in images or len(images) < 2:
        found = ", ".join(f"{n} ({count} images)" for n, count in images.items()) or "nothing"
        raise ConfigError(f"{path}: needs training images and others to evaluate on, has {found}")
    train = dicts[f"{name}_train"]
    things = [
        (*a["bbox"][2:], row, a["category_id"], bool(a.get("segmentation")))
        for row, image in enumerate(train)
        for a in image["annotations"]
        if not a.get("iscrowd")
    ]
    if not things:
        raise ConfigError(f"{path}: no training image has a box, so there is nothing to learn")
    counts = Counter(thing[3] for thing in things)
    labels = MetadataCatalog.get(f"{name}_train").thing_classes
    return Profile(
        name=name,
        path=str(path),
        images=images,
        classes={label: counts[i] for i, label in enumerate(labels)},
        sizes=np.array([(image["height"], image["width"]) for image in train]),
        boxes=np.array([thing[:3] for thing in things]),
        masks=all(thing[4] for thing in things),
    )


def table(profile: Profile) -> str:
    """Return what was seen, as lines of text."""
    w, h = profile.boxes[:, 0], profile.boxes[:, 1]
    classes = [f"{name} ({count})" for name, count in profile.classes.items()]
    more = f", and {len(classes) - 12} more" if len(classes) > 12 else ""
    rows = {
        "images": ", ".join(f"{n}: {count}" for n, count in profile.images.items()),
        "boxes": f"{len(profile.boxes)}, {len(profile.boxes) / len(profile.sizes):.1f} an image",
        "classes": f"{len(classes)}: {', '.join(classes[:12])}{more}",
        "image sizes": f"height {_span(profile.sizes[:, 0])}, width {_span(profile.sizes[:, 1])}",
        "box sizes": f"width {_span(w)}, height {_span(h)}",
        "masks": "all boxes have one" if profile.masks else "not all boxes have one",
    }
    return "\n".join(f"{key:12} {value}" for key, value in rows.items())


def _span(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, (0, 0.5, 1))
    return f"{low:.0f} to {high:.0f} pixels (median {middle:.0f})"
