"""The parts of a run's config: data, networks and optimisation, each checked when it is made.

Messages name keys as the command line does, ``train.lr``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pcka.errors import ConfigError

DataName = Literal["digits", "cifar10", "cifar100", "folder", "imagenet"]
Triple = tuple[float, float, float]

_IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# What `None` in DataConfig stands for. The statistics of a folder are ImageNet's: models that come
# with weights expect them.
DATA_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"image_size": 32, "flip": False, "mean": (0.3053,) * 3, "std": (0.3236,) * 3},
    "cifar10": {
        "image_size": 32,
        "flip": True,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
    },
    "cifar100": {
        "image_size": 32,
        "flip": True,
        "mean": (0.5071, 0.4867, 0.4408),
        "std": (0.2675, 0.2565, 0.2761),
    },
    "folder": {"image_size": None, "flip": True, **_IMAGENET_STATISTICS},
    "imagenet": {"image_size": 224, "flip": True, **_IMAGENET_STATISTICS},
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Images and their augmentation; ``None`` stands for the data set's own value.

    Args:
        name: which data set; ``folder`` is any ``train/<class>/*`` and ``val/<class>/*``.
        root: folder that holds it (``folder``: or a .zip file); ``digits`` needs none.
        download: fetch CIFAR if it is not there.
        image_size: side of the square images, in pixels. None for a folder: that of its images,
            which are then of one size.
        mean, std: per channel, of pixels in [0, 1].
        crop_padding: pixels of black on each side before a random crop of ``image_size``; for
            images in memory.
        flip: mirror half of the training images.
        holdout: fraction of the *training* images, per class, that is left out of training and
            evaluated instead of the test images; weights are tuned with it. 0: evaluate on test.
        memory_mb: a folder whose pixels take more is read from disk, image by image, with
            ImageNet's augmentation.
        workers: processes that decode images from disk.
    """

    name: DataName = "digits"
    root: str = "datasets"
    download: bool = False
    image_size: int | None = None
    mean: Triple | None = None
    std: Triple | None = None
    crop_padding: int = 4
    flip: bool | None = None
    holdout: float = 0.0
    memory_mb: int = 2048
    workers: int = 4

    @property
    def statistics(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation, as given or the data set's own."""
        assert self.mean is not None and self.std is not None  # filled when it is made
        return self.mean, self.std

    def __post_init__(self):
        one_of("data.name", self.name, tuple(DATA_DEFAULTS))
        for key, value in DATA_DEFAULTS[self.name].items():
            if getattr(self, key) is None:
                object.__setattr__(self, key, value)
        size = self.image_size
        if self.name in ("digits", "cifar10", "cifar100"):
            check(size == 32, "data.image_size", f"32 for {self.name}", size)
        check(size is None or 1 <= size <= 2**16, "data.image_size", "from 1 to 65536", size)
        _check_statistics("data", self.mean, self.std)
        padding = self.crop_padding
        check(0 <= padding <= 4096, "data.crop_padding", "from 0 to 4096", padding)
        check(0 <= self.holdout < 1, "data.holdout", "in [0, 1)", self.holdout)
        check(self.memory_mb >= 0, "data.memory_mb", "not negative", self.memory_mb)
        check(0 <= self.workers <= 4096, "data.workers", "from 0 to 4096", self.workers)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A network by name, and the file of weights it starts from ("" for a fresh one)."""

    name: str
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The frozen network that teaches.

    Args:
        name: the name of the model.
        weights: file of its trained weights.
        mean, std: the statistics of its own training, if they are not those of ``data``.
        min_accuracy: top-1 in percent that it must reach on the evaluated images before training
            starts. None: clearly better than chance.
        prepare: on a GPU, fold its BatchNorm into its convolutions and cast its weights to the
            type of ``train.amp`` once. Its features change by rounding.
    """

    name: str
    weights: str = ""
    mean: Triple | None = None
    std: Triple | None = None
    min_accuracy: float | None = None
    prepare: bool = True

    def __post_init__(self):
        if (self.mean is None) != (self.std is None):
            raise ConfigError("teacher.mean and teacher.std come together: set both or neither")
        _check_statistics("teacher", self.mean, self.std)
        least = self.min_accuracy
        check(least is None or 0 <= least <= 100, "teacher.min_accuracy", "in [0, 100]", least)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation; the defaults are the published CIFAR-100 recipe.

    Args:
        epochs: passes over the training images.
        batch_size: images per step, of all processes together.
        lr, momentum, nesterov, weight_decay: the options of SGD.
        schedule: ``multistep`` multiplies lr by ``gamma`` after each of ``milestones`` (epochs);
            ``cosine`` brings it to 0.
        warmup_epochs: epochs over which lr rises linearly from 0.
        clip_grad_norm: longest gradient (L2 norm over all parameters); None: unlimited.
        amp: autocast to this type.
        channels_last, compile: how the networks run; neither changes what is computed.
        cuda_graph: ``auto`` records the steps of images in memory on a GPU as CUDA graphs, which
            changes how they are started and not what they compute, except that the teacher sees the
            images of several steps at once, which rounds differently. False never does.
        ema_decay: the decay of a moving average of the student's weights, which is evaluated as
            well; None: no average.
        label_smoothing: the smoothing of the cross-entropy.
        eval_every, checkpoint_every: epochs between two; the last epoch always does both.
        checkpoint_minutes: one process also writes a checkpoint within an epoch after so long.
        log_every: steps between two looks at the losses, which stop the run if one is not finite.
        gradient_every: steps between two measurements of the terms' gradients beside the
            cross-entropy's, at the features that the terms read; 0 measures none. Neither this
            nor the next under ``compile``, whose graph does not show its features.
        picture_every: epochs between two sets of the pictures of ``tools/pictures.py`` in
            TensorBoard, where a teacher teaches; 0 draws none. A multiple of ``eval_every``.
    """

    epochs: int = 240
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: Literal["multistep", "cosine"] = "multistep"
    milestones: tuple[int, ...] = (150, 180, 210)
    gamma: float = 0.1
    warmup_epochs: int = 0
    clip_grad_norm: float | None = None
    amp: Literal["none", "bf16", "fp16"] = "none"
    channels_last: bool = False
    compile: bool = False
    cuda_graph: Literal["auto", False] = "auto"
    ema_decay: float | None = None
    label_smoothing: float = 0.0
    eval_every: int = 1
    checkpoint_every: int = 1
    checkpoint_minutes: float = 10.0
    log_every: int = 50
    gradient_every: int = 0
    picture_every: int = 0

    def __post_init__(self):
        for key in ("epochs", "batch_size", "eval_every", "checkpoint_every", "log_every"):
            check(getattr(self, key) >= 1, f"train.{key}", "at least 1", getattr(self, key))
        every = self.gradient_every
        check(every >= 0, "train.gradient_every", "steps, or 0 for off", every)
        pictures = self.picture_every
        fits = pictures >= 0 and pictures % self.eval_every == 0
        check(fits, "train.picture_every", "a multiple of train.eval_every, or 0 for off", pictures)
        for key in ("gradient_every", "picture_every"):
            if getattr(self, key) and self.compile:
                raise ConfigError(
                    f"train.{key} reads features within the network, which a compiled one does not "
                    f"give: set train.compile false, or train.{key} 0"
                )
        for key in ("lr", "gamma"):
            check(getattr(self, key) > 0, f"train.{key}", "positive", getattr(self, key))
        minutes = self.checkpoint_minutes
        check(minutes > 0, "train.checkpoint_minutes", "positive", minutes)
        decay, warmup, norm = self.weight_decay, self.warmup_epochs, self.clip_grad_norm
        check(decay >= 0, "train.weight_decay", "not negative", decay)
        check(norm is None or norm > 0, "train.clip_grad_norm", "positive or null", norm)
        for key in ("momentum", "ema_decay", "label_smoothing"):
            value = getattr(self, key)
            check(value is None or 0 <= value < 1, f"train.{key}", "in [0, 1)", value)
        if self.nesterov and not self.momentum:
            raise ConfigError("train.nesterov needs train.momentum > 0")
        one_of("train.schedule", self.schedule, ("multistep", "cosine"))
        check(
            self.cuda_graph in ("auto", False), "train.cuda_graph", "auto or false", self.cuda_graph
        )
        one_of("train.amp", self.amp, ("none", "bf16", "fp16"))
        check(
            0 <= warmup < self.epochs,
            "train.warmup_epochs",
            f"in [0, train.epochs = {self.epochs})",
            warmup,
        )
        if self.schedule == "multistep":
            steps = list(self.milestones)
            rising = steps == sorted(set(steps)) and all(0 < s < self.epochs for s in steps)
            words = f"rising epochs between 0 and train.epochs = {self.epochs}"
            check(rising, "train.milestones", words, steps)


def check(holds: bool, key: str, what: str, value: Any) -> None:
    if not holds:
        raise ConfigError(f"{key} is {what}, got {value!r}")


def one_of(key: str, value: Any, known: Sequence[str]) -> None:
    check(value in known, key, f"one of {', '.join(known)}", value)


def _check_statistics(where: str, mean: Triple | None, std: Triple | None) -> None:
    for key, values, least in (("mean", mean, 0), ("std", std, 1e-6)):
        if values is not None:
            fine = len(values) == 3 and all(math.isfinite(v) and least <= v <= 1 for v in values)
            check(fine, f"{where}.{key}", "three numbers in [0, 1] (std above 0)", values)
