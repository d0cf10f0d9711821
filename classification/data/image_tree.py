"""``train/<class>/*`` and ``val/<class>/*`` in a directory or a .zip: what is there, and pixels.

The layout and the labels, classes in alphabetical order, are those of torchvision's ImageFolder.
"""

import io
import logging
import os
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from pcka.errors import ConfigError

TRAIN = "train"
EVALUATION = ("val", "test")  # whichever is there, in this order
# What Pillow and zipfile raise for damaged bytes.
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, zipfile.BadZipFile, zlib.error)

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

    Raises:
        ConfigError: no such file, not a complete .zip, or no ``train`` folder.
    """

    def __init__(self, root: str):
        self.root = Path(root).expanduser()
        if not self.root.exists():
            raise ConfigError(f"data.root {self.root} does not exist")
        self.is_zip = self.root.is_file()
        self._splits = self._sort(self._zip_names() if self.is_zip else self._directory_names())
        if TRAIN not in self._splits:
            raise ConfigError(
                f"{self.root} has no folders {TRAIN}/<class>/ with images. At its top there is: "
                f"{_some(self._top_level()) or 'nothing'}. It must hold {TRAIN}/<class>/<image> "
                "and val/<class>/<image>"
            )
        self.classes = tuple(sorted(self._splits[TRAIN]))

    def train(self) -> Split:
        return self._split(TRAIN)

    def evaluation(self) -> Split:
        """The images of ``val``, else of ``test``.

        Raises:
            ConfigError: there is neither, or it has classes that ``train`` lacks.
        """
        found = [name for name in EVALUATION if name in self._splits]
        if not found:
            raise ConfigError(
                f"{self.root} has no folder val or test beside train: was it extracted in full? To "
                "evaluate on some of the training images instead, set data.holdout 0.1"
            )
        strange = sorted(self._splits[found[0]].keys() - set(self.classes))
        if strange:
            raise ConfigError(
                f"{self.root}/{found[0]} has classes that {TRAIN} lacks: {_some(strange)}. Both "
                "need the same class folders; was train extracted in full?"
            )
        absent = sorted(set(self.classes) - self._splits[found[0]].keys())
        if absent:
            logger.warning("%s/%s has no images of %s", self.root, found[0], _some(absent))
        return self._split(found[0])

    def open(self, name: str) -> Image.Image:
        """The image ``name`` in RGB, decoded; safe to call from several threads.

        Raises:
            ConfigError: it cannot be decoded; names the file.
        """
        try:
            with Image.open(io.BytesIO(self._read(name))) as image:
                return image.convert("RGB")
        except _UNREADABLE as error:
            raise ConfigError(
                f"{self.root}/{name} is not an image that can be read ({error}): remove it, or "
                "extract or download it again"
            ) from error

    def _read(self, name: str) -> bytes:
        if not self.is_zip:
            return (self.root / name).read_bytes()
        return self._archive.read(name)

    def _top_level(self) -> list[str]:
        if not self.is_zip:
            return sorted(os.listdir(self.root))
        return sorted({name.split("/")[0] for name in self._archive.namelist()})

    def _zip_names(self) -> list[str]:
        try:
            self._archive = zipfile.ZipFile(self.root)
        except (zipfile.BadZipFile, OSError) as error:
            raise ConfigError(
                f"{self.root} is not a complete .zip file ({error}): download it again, or set "
                "data.root to a directory"
            ) from error
        return self._archive.namelist()

    def _directory_names(self) -> list[str]:
        names = []
        for split in (TRAIN, *EVALUATION):
            for folder, subfolders, files in os.walk(self.root / split, followlinks=True):
                subfolders.sort()
                here = Path(folder).relative_to(self.root).as_posix()
                names += [f"{here}/", *(f"{here}/{file}" for file in files)]
        return names

    def _sort(self, paths: list[str]) -> dict[str, dict[str, list[str]]]:
        """split -> class -> names; a class folder without images has an empty list."""
        splits: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for path in sorted(paths):
            split, *inside = path.split("/")
            if split not in (TRAIN, *EVALUATION) or any(p.startswith(".") for p in inside):
                continue
            if len(inside) == 1 and path.lower().endswith(IMG_EXTENSIONS):
                raise ConfigError(
                    f"{self.root}/{path} lies beside the class folders: put every image into the "
                    f"folder of its class, {split}/<class>/{inside[0]}"
                )
            if len(inside) < 2:
                continue
            members = splits[split][inside[0]]
            if path.lower().endswith(IMG_EXTENSIONS):
                members.append(path)
        return splits

    def _split(self, split: str) -> Split:
        by_class = self._splits[split]
        empty = sorted(name for name, members in by_class.items() if not members)
        if empty:
            raise ConfigError(
                f"{self.root}/{split} has class folders without images: {_some(empty)}. Remove "
                f"them, or extract the data again; images end in {', '.join(IMG_EXTENSIONS)}"
            )
        names, labels = [], []
        for label, name in enumerate(self.classes):
            names += by_class.get(name, [])
            labels += [label] * len(by_class.get(name, []))
        if not names:
            raise ConfigError(f"{self.root}/{split} holds no images in class folders")
        return Split(names, labels)


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
