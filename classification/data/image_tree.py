"""``train/<class>/*`` and ``val/<class>/*`` in a directory or a .zip: what is there, and pixels.

The layout and the labels, classes in alphabetical order, are those of torchvision's ImageFolder.
"""

import io
import logging
import os
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from pcka.errors import ConfigError

from .pixels import open_rgb
from .tree_names import directory_names, open_zip

TRAIN = "train"
# Endings of images beside those that torchvision's ImageFolder reads.
_NOT_READ = (".gif", ".heic", ".heif", ".avif", ".jfif", ".jp2", ".jxl", ".exr", ".svg", ".npy")
EVALUATION = ("val", "test")  # whichever is there, in this order

logger = logging.getLogger(__name__)


class Split(NamedTuple):
    """Images of one split: names below the root, and a label for each."""

    names: list[str]
    labels: list[int]

    def subset(self, indices: list[int]) -> "Split":
        return Split([self.names[i] for i in indices], [self.labels[i] for i in indices])


class ImageTree:
    """Images of ``root`` by split and class.

    Args:
        root: a directory, or a .zip file.
        train: whether the classes are those of ``train``; False: of the evaluated split, where
            there may be no ``train``.

    Raises:
        ConfigError: no such file, not a complete .zip, no ``train`` folder, fewer than two classes,
            or class folders one level too deep.
    """

    def __init__(self, root: str, *, train: bool = True):
        self.root = Path(root).expanduser()
        if not self.root.exists():
            raise ConfigError(f"data.root {self.root} does not exist")
        self.is_zip = self.root.is_file()
        self._archive: zipfile.ZipFile | None = None
        if self.is_zip:
            self._archive = open_zip(self.root)
            names = self._archive.namelist()
        else:
            names = directory_names(self.root, (TRAIN, *EVALUATION))
        self._names: dict[str, list[str]] = {}
        for name in sorted(names):
            self._names.setdefault(name.split("/")[0], []).append(name)
        if train:
            self._labelled = TRAIN
        else:
            self._labelled = self._evaluated()
        classes = self._by_class(self._labelled)
        if not classes:
            raise ConfigError(
                f"{self.root} has no folders {self._labelled}/<class>/ with images. At its top "
                f"there is: {self._found()}. It must hold {TRAIN}/<class>/<image> and "
                "val/<class>/<image>"
            )
        self.classes = tuple(sorted(classes))
        self._split(self._labelled)  # empty folders are named first
        if len(self.classes) < 2:
            raise ConfigError(
                f"{self.root}/{self._labelled} has one class folder, {self.classes[0]}: a "
                f"classifier needs two classes or more, {self._labelled}/<class>/<image>"
            )

    def train(self) -> Split:
        return self._split(TRAIN)

    def evaluation(self) -> Split:
        """Return the images of ``val``, else of ``test``.

        Raises:
            ConfigError: there is neither, or it has classes that ``train`` lacks.
        """
        split = self._evaluated()
        by_class = self._by_class(split)
        if not by_class:
            raise ConfigError(f"{self.root}/{split} holds no images in class folders")
        strange = sorted(by_class.keys() - set(self.classes))
        if strange:
            raise ConfigError(
                f"{self.root}/{split} has classes that {TRAIN} lacks: {_some(strange)}. Both "
                "need the same class folders; was train extracted in full?"
            )
        absent = sorted(set(self.classes) - by_class.keys())
        if absent:
            logger.warning("%s/%s has no images of %s", self.root, split, _some(absent))
        return self._split(split)

    def open(self, name: str) -> Image.Image:
        """Return the image ``name`` in RGB, decoded; safe to call from several threads.

        Raises:
            ConfigError: it cannot be decoded, or has more than 8 bits; names the file.
        """
        return open_rgb(self._read, name, str(self.root))

    def stream(self, name: str) -> IO[bytes]:
        """Return the file ``name``, open for reading its header."""
        if self._archive is None:
            return open(self.root / name, "rb")
        return io.BytesIO(self._archive.read(name))

    def _read(self, name: str) -> bytes:
        if self._archive is None:
            return (self.root / name).read_bytes()
        return self._archive.read(name)

    def _evaluated(self) -> str:
        """Return the name of the split that is evaluated."""
        for split in EVALUATION:
            if split in self._names:
                return split
        raise ConfigError(
            f"{self.root} has no folder val or test beside train (found: {self._found()}): was it "
            "extracted in full? To evaluate on some of the training images instead, set "
            "data.holdout 0.1"
        )

    def _found(self) -> str:
        top = sorted(self._names) if self._archive else sorted(os.listdir(self.root))
        return _some(top) or "nothing"

    def _by_class(self, split: str) -> dict[str, list[str]]:
        """Return names by class; a class folder without images has an empty list."""
        classes: dict[str, list[str]] = defaultdict(list)
        below: dict[str, set[str]] = defaultdict(set)
        for path in self._names.get(split, ()):
            inside = path.split("/")[1:]
            if any(part.startswith(".") for part in inside):
                continue
            is_image = path.lower().endswith(IMG_EXTENSIONS)
            if len(inside) == 1 and is_image:
                raise ConfigError(
                    f"{self.root}/{path} lies beside the class folders: put every image into the "
                    f"folder of its class, {split}/<class>/{inside[0]}"
                )
            if len(inside) < 2:
                continue
            members = classes[inside[0]]
            if is_image:
                members.append(path)
                below[inside[0]].add(inside[1] if len(inside) > 2 else "")
        for name, folders in below.items():
            if len(folders) > 1 and "" not in folders:
                raise ConfigError(
                    f"{self.root}/{split}/{name} holds no images, but the folders "
                    f"{_some(sorted(folders))}: the classes lie one level too deep. Move them up, "
                    f"{split}/<class>/<image>"
                )
        return dict(classes)

    def _split(self, split: str) -> Split:
        by_class = self._by_class(split)
        empty = sorted(name for name, members in by_class.items() if not members)
        if empty:
            raise ConfigError(
                f"{self.root}/{split} has class folders without images: {_some(empty)}. Remove "
                f"them, or extract the data again; images end in {', '.join(IMG_EXTENSIONS)}"
            )
        others = [p for p in self._names.get(split, ()) if p.lower().endswith(_NOT_READ)]
        if others:
            logger.warning(
                "%s: %d image(s) of a kind that is not read are left out, such as %s: convert them "
                "to PNG or JPEG",
                self.root,
                len(others),
                others[0],
            )
        names, labels = [], []
        for label, name in enumerate(self.classes):
            names += by_class.get(name, [])
            labels += [label] * len(by_class.get(name, []))
        return Split(names, labels)


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
