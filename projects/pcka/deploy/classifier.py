"""The classifier of a finished run: student and teacher, class names, and images as it reads them.

Letters: B images, S pixels a side, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from pcka.checkpoint_files import read_checkpoint
from pcka.classification.checkpoints import load_weights
from pcka.classification.config import Config, load_config
from pcka.classification.data.files import RESIZE_RATIO, resize_and_crop
from pcka.classification.data.pixels import open_rgb
from pcka.classification.data.tensors import Normalize
from pcka.classification.models import create_model
from pcka.classification.records import DATA
from pcka.classification.teacher import Teacher
from pcka.errors import ConfigError
from pcka.files import read_json

from .runs import TrainedRun


@dataclass(frozen=True)
class TrainedClassifier:
    """The student of a finished run.

    Attributes:
        run: its folder.
        cfg: its config.
        model: the student, in evaluation mode.
        classes: K names.
        image_size: S.
        ratio: images are resized to this times S before the middle is cut; None keeps those that
            have S pixels a side.
        device: the device that computes.
    """

    run: TrainedRun
    cfg: Config
    model: nn.Module
    classes: tuple[str, ...]
    image_size: int
    ratio: float | None
    device: torch.device

    def read(self, path: str | Path) -> Image.Image:
        """Return an image in RGB, as its file stores it: an EXIF orientation is not applied.

        Raises:
            ConfigError: it cannot be read.
        """
        path = Path(path)
        return open_rgb(lambda _: path.read_bytes(), path.name, str(path.parent))

    def pixels(self, image: Image.Image) -> Tensor:
        """Return ``(3, S, S)`` uint8, resized and cut as in the student's evaluation."""
        size = self.image_size
        if self.ratio is not None or image.size != (size, size):
            image = resize_and_crop(image, size, ratio=self.ratio or 1.0)
        return v2.functional.pil_to_tensor(image)

    @cached_property
    def _normalize(self) -> Normalize:
        return Normalize(*self.cfg.data.statistics, self.device)

    def normalized(self, pixels: Sequence[Tensor]) -> Tensor:
        """Return the network's input ``(B, 3, S, S)`` of images of :meth:`pixels`."""
        return self._normalize(torch.stack(list(pixels)).to(self.device))

    def teacher(self) -> Callable[[Tensor], Tensor]:
        """Return the logits of the run's teacher as a function of :meth:`normalized` images.

        Raises:
            ConfigError: the run has no teacher, or its weights do not exist or do not fit.
        """
        teacher = self.cfg.teacher
        if teacher is None or not teacher.weights:
            raise ConfigError(f"--teacher: the run in {self.run.folder} names no teacher")
        model = _network(teacher.name, len(self.classes))
        load_weights(model, teacher.weights)
        mean, std = self.cfg.data.statistics
        own = Teacher(
            model.to(self.device),
            mean=teacher.mean or mean,
            std=teacher.std or std,
            data_mean=mean,
            data_std=std,
        )
        return lambda images: own.model(own.normalize(images))


def open_classifier(run: TrainedRun, device: torch.device) -> TrainedClassifier:
    """Build the student of a run and load its trained weights.

    Raises:
        ConfigError: a config that cannot be read, a run that does not tell its classes or the size
            of its images, or weights that do not fit.
    """
    cfg = load_config([run.config])
    content = read_json(run.folder / DATA)
    record: dict[str, Any] = content if isinstance(content, dict) else {}
    classes = record.get("classes") or _classes_beside(run.weights)
    size = record.get("image_size") or cfg.data.image_size
    if not classes or size is None:
        what = "size of images" if classes else "class names"
        raise ConfigError(f"the run in {run.folder} has no {DATA} that tells the {what}")
    model = _network(cfg.student.name, len(classes))
    load_weights(model, run.weights)
    on_disk = record.get("images are kept") == "on disk" or cfg.data.name == "imagenet"
    return TrainedClassifier(
        run,
        cfg,
        model.to(device).eval(),
        tuple(classes),
        int(size),
        RESIZE_RATIO if on_disk else None,
        device,
    )


def _network(name: str, classes: int) -> nn.Module:
    try:
        return create_model(name, classes)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _classes_beside(weights: Path) -> list[str]:
    """Return the class names that the file of weights keeps, or nothing."""
    content = read_checkpoint(weights)
    return list(content.get("classes", ())) if isinstance(content, dict) else []
