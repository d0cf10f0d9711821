"""What a training run is: frozen dataclasses, filled from YAML files and KEY VALUE pairs.

Every value is checked when its object is made; messages name keys as the command line does,
``train.lr``.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from pcka.core import TermSpec
from pcka.errors import ConfigError
from pcka.keys import leaves

from .config_files import build, merge_pairs, read_files

DataName = Literal["digits", "cifar10", "cifar100", "folder", "imagenet"]
Triple = tuple[float, float, float]

_IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# What `None` in DataConfig stands for. The statistics of a folder are ImageNet's: models that come
# with weights expect them.
DATA_DEFAULTS = {
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

    def __post_init__(self):
        _one_of("data.name", self.name, tuple(DATA_DEFAULTS))
        for key, value in DATA_DEFAULTS[self.name].items():
            if getattr(self, key) is None:
                object.__setattr__(self, key, value)
        size = self.image_size
        if self.name in ("digits", "cifar10", "cifar100"):
            _check(size == 32, "data.image_size", f"32 for {self.name}", size)
        _check(size is None or size >= 1, "data.image_size", "at least 1", size)
        _check_statistics("data", self.mean, self.std)
        padding = self.crop_padding
        _check(padding >= 0, "data.crop_padding", "not negative", padding)
        _check(0 <= self.holdout < 1, "data.holdout", "in [0, 1)", self.holdout)
        _check(self.memory_mb >= 0, "data.memory_mb", "not negative", self.memory_mb)
        _check(self.workers >= 0, "data.workers", "not negative", self.workers)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A network by name, and the file of weights it starts from ("" for a fresh one)."""

    name: str
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The frozen network that teaches.

    Args:
        name: of the model.
        weights: file of its trained weights.
        mean, std: of its own training, if they are not those of ``data``.
        min_accuracy: top-1 in percent that it must reach on the evaluated images before training
            starts. None: clearly better than chance.
    """

    name: str
    weights: str = ""
    mean: Triple | None = None
    std: Triple | None = None
    min_accuracy: float | None = None

    def __post_init__(self):
        if (self.mean is None) != (self.std is None):
            raise ConfigError("teacher.mean and teacher.std come together: set both or neither")
        _check_statistics("teacher", self.mean, self.std)
        least = self.min_accuracy
        _check(least is None or 0 <= least <= 100, "teacher.min_accuracy", "in [0, 100]", least)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation; the defaults are the published CIFAR-100 recipe.

    Args:
        epochs: passes over the training images.
        batch_size: images per step, of all processes together.
        lr, momentum, nesterov, weight_decay: of SGD.
        schedule: ``multistep`` multiplies lr by ``gamma`` after each of ``milestones`` (epochs);
            ``cosine`` brings it to 0.
        warmup_epochs: epochs over which lr rises linearly from 0.
        clip_grad_norm: longest gradient (L2 norm over all parameters); None: unlimited.
        amp: autocast to this type.
        channels_last, compile: how the networks run; neither changes what is computed.
        ema_decay: of a moving average of the student's weights, evaluated as well; None: none.
        label_smoothing: of the cross-entropy.
        eval_every, checkpoint_every: epochs between two; the last epoch always does both.
        checkpoint_minutes: one process also writes a checkpoint within an epoch after so long.
        log_every: steps between two looks at the losses, which stop the run if one is not finite.
        gradient_every: steps between two measurements of the terms' gradients beside the
            cross-entropy's, at the features that the terms read; 0 measures none. Not under
            ``compile``, whose graph has no gradient at a feature within it.
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
    ema_decay: float | None = None
    label_smoothing: float = 0.0
    eval_every: int = 1
    checkpoint_every: int = 1
    checkpoint_minutes: float = 10.0
    log_every: int = 50
    gradient_every: int = 0

    def __post_init__(self):
        for key in ("epochs", "batch_size", "eval_every", "checkpoint_every", "log_every"):
            _check(getattr(self, key) >= 1, f"train.{key}", "at least 1", getattr(self, key))
        every = self.gradient_every
        _check(every >= 0, "train.gradient_every", "steps, or 0 for off", every)
        if every and self.compile:
            raise ConfigError(
                "train.gradient_every needs the gradients at features, which a compiled network "
                "does not give: set train.compile false, or train.gradient_every 0"
            )
        for key in ("lr", "gamma"):
            _check(getattr(self, key) > 0, f"train.{key}", "positive", getattr(self, key))
        minutes = self.checkpoint_minutes
        _check(minutes > 0, "train.checkpoint_minutes", "positive", minutes)
        decay, warmup, norm = self.weight_decay, self.warmup_epochs, self.clip_grad_norm
        _check(decay >= 0, "train.weight_decay", "not negative", decay)
        _check(norm is None or norm > 0, "train.clip_grad_norm", "positive or null", norm)
        for key in ("momentum", "ema_decay", "label_smoothing"):
            value = getattr(self, key)
            _check(value is None or 0 <= value < 1, f"train.{key}", "in [0, 1)", value)
        if self.nesterov and not self.momentum:
            raise ConfigError("train.nesterov needs train.momentum > 0")
        _one_of("train.schedule", self.schedule, ("multistep", "cosine"))
        _one_of("train.amp", self.amp, ("none", "bf16", "fp16"))
        _check(
            0 <= warmup < self.epochs,
            "train.warmup_epochs",
            f"in [0, train.epochs = {self.epochs})",
            warmup,
        )
        if self.schedule == "multistep":
            steps = list(self.milestones)
            rising = steps == sorted(set(steps)) and all(0 < s < self.epochs for s in steps)
            words = f"rising epochs between 0 and train.epochs = {self.epochs}"
            _check(rising, "train.milestones", words, steps)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run.

    Args:
        output_dir: folder that it writes to.
        seed: of initialisation, order of images and augmentation.
        device: ``auto`` takes a GPU where there is one; else as torch names it.
        data, student, teacher, train: see their classes; no teacher: plain training.
        terms: distillation losses, each with its weight.
        ce_weight: factor of the cross-entropy with the labels.
    """

    output_dir: str
    seed: int = 1
    device: str = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    student: ModelConfig
    teacher: TeacherConfig | None = None
    terms: tuple[TermSpec, ...] = ()
    ce_weight: float = 1.0
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        _check(bool(self.output_dir), "output_dir", "the name of a folder", self.output_dir)
        _check(0 <= self.seed < 2**63, "seed", "in [0, 2^63)", self.seed)
        if self.device != "auto":
            try:
                torch.device(self.device)
            except RuntimeError as error:
                raise ConfigError(
                    f"device is auto, or a device of torch such as cpu or cuda:0, got "
                    f"{self.device!r}"
                ) from error
        _check(self.ce_weight >= 0, "ce_weight", "not negative", self.ce_weight)
        names = [term.name for term in self.terms]
        _check(len(set(names)) == len(names), "terms", "a list of different names", names)
        if self.distils and self.teacher is None:
            raise ConfigError("terms need a teacher: set teacher.name and teacher.weights")
        if not self.distils and self.ce_weight == 0:
            raise ConfigError("ce_weight is 0 and no term is on: there is nothing to train with")
        ends = [term.build_schedule().off_at for term in self.terms if term.weight > 0]
        if self.ce_weight == 0 and max(ends) < 1:
            raise ConfigError(
                f"ce_weight is 0 and every term is off from {max(ends)} of the training on: raise "
                "schedule.off_at of one to 1"
            )

    @property
    def distils(self) -> bool:
        """Whether any term is on; otherwise this is plain training and needs no teacher."""
        return any(term.weight > 0 for term in self.terms)


def load_config(files: Sequence[str | Path], opts: Sequence[str] = ()) -> Config:
    """A run from YAML files, merged in order, and KEY VALUE pairs, merged last.

    Args:
        files: each may name the files it builds on under ``_BASE_``: a path or a list of paths,
            relative to the file. Mappings merge key by key, lists replace. A base that several
            files share is merged once, first.
        opts: ``["train.lr", "0.1", "data.root=/x", "terms.kd.weight", "2"]``; values in YAML.

    Raises:
        ConfigError: names the file or key, its value, and what it may be.
    """
    tree = read_files(files)
    merge_pairs(tree, opts)
    return build(Config, tree)


def to_dict(cfg: Config) -> dict[str, Any]:
    """``cfg`` as YAML has it: mappings, lists and plain values."""
    return _plain(asdict(cfg))


def save_config(cfg: Config, path: str | Path) -> None:
    """Write ``cfg`` so that ``load_config([path])`` gives an equal one."""
    text = yaml.safe_dump(to_dict(cfg), sort_keys=False, allow_unicode=True)
    Path(path).write_text(text, encoding="utf-8")


def config_differences(a: Config, b: Config, *, ignore: Sequence[str] = ()) -> list[str]:
    """Dotted keys whose values differ, sorted; terms go by name, ``terms.kd.weight``.

    Args:
        ignore: keys that may differ; ``train`` covers all of ``train.*``.
    """
    left, right = (leaves(to_dict(cfg)) for cfg in (a, b))
    absent = object()
    return [
        key
        for key in sorted(left.keys() | right.keys())
        if left.get(key, absent) != right.get(key, absent)
        and not any(key == i or key.startswith(f"{i}.") for i in ignore)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return value


def _check(holds: bool, key: str, what: str, value: Any) -> None:
    if not holds:
        raise ConfigError(f"{key} is {what}, got {value!r}")


def _one_of(key: str, value: Any, known: Sequence[str]) -> None:
    _check(value in known, key, f"one of {', '.join(known)}", value)


def _check_statistics(where: str, mean: Triple | None, std: Triple | None) -> None:
    for key, values, least in (("mean", mean, 0), ("std", std, 1e-6)):
        if values is not None:
            fine = len(values) == 3 and all(math.isfinite(v) and least <= v <= 1 for v in values)
            _check(fine, f"{where}.{key}", "three numbers in [0, 1] (std above 0)", values)
