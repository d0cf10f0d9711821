"""The frozen teacher: a detector whose trained weights are checked before training starts."""

import logging
from collections.abc import Collection
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from pcka.core import FeatureShape, Taps
from pcka.detection.checks.translation import refusing
from pcka.detection.config import ConfigError

from .features import Detector, feature_modules, feature_shapes
from .fpn import reading
from .teacher_source import teacher_source
from .weights import SafeCheckpointer, fetch

logger = logging.getLogger(__name__)


class FrozenTeacher:
    """A detector of which only the backbone runs, without gradients.

    This is not an ``nn.Module`` on purpose: as an attribute of a module it stays out of the state
    dict, the optimizer, DDP and ``train()``.
    """

    def __init__(
        self,
        model: Detector,
        *,
        input_format: str,
        student_format: str,
        missing_heads: tuple[str, ...] = (),
    ):
        """
        Args:
            model: a detectron2 meta-architecture with ``backbone`` and ``preprocess_image``.
            input_format: channel order that the teacher was trained on, ``BGR`` or ``RGB``.
            student_format: channel order of the images that it is given.
            missing_heads: entries outside the backbone that hold no trained weights.
        """
        self.model: Detector = model.eval().requires_grad_(False)
        self.input_format = input_format
        self.missing_heads = missing_heads
        self.flip_channels = input_format != student_format
        self.taps = Taps(feature_modules(model))

    @property
    def feature_shapes(self) -> dict[str, FeatureShape]:
        return feature_shapes(self.model)

    @property
    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Return the mean and std of its normalisation, in the order of ``input_format``."""
        return self.model.pixel_mean, self.model.pixel_std

    @property
    def num_classes(self) -> int | None:
        """Return the number of classes that it detects; None if the model does not say."""
        return getattr(getattr(self.model, "roi_heads", self.model), "num_classes", None)

    @torch.no_grad()
    def __call__(
        self, batched_inputs: list[dict], device: torch.device, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Return features ``(B, C, H, W)`` by name, from images as the student's mapper made them.

        The teacher preprocesses the images itself, channel order first, then its own mean, std and
        padding, so its features are the same as without a student.

        Args:
            batched_inputs: inputs of a detectron2 detector.
            device: where the student is; the teacher moves there.
            names: features to compute; None computes all.
        """
        names = self.feature_shapes if names is None else names
        images = self._inputs(batched_inputs, device)
        with self.taps.record() as features, reading(self.model.backbone, names):
            self.model.backbone(self.model.preprocess_image(images).tensor)
        return {name: features[name] for name in names}

    @torch.no_grad()
    def detect(self, batched_inputs: list[dict], device: torch.device) -> list[dict]:
        """Return the results of the whole detector, heads included, to measure its AP."""
        return self.model(self._inputs(batched_inputs, device))

    def _inputs(self, batched_inputs: list[dict], device: torch.device) -> list[dict]:
        """Return the inputs in the teacher's channel order, and move the teacher to ``device``."""
        if self.model.device != device:
            self.model.to(device)
        if not self.flip_channels:
            return batched_inputs
        return [{**x, "image": x["image"].flip(0)} for x in batched_inputs]


def build_teacher(cfg: CfgNode) -> FrozenTeacher:
    """Build MODEL.PCKA.TEACHER and load its weights.

    The random state is left unchanged, so that a student starts the same with and without a
    teacher.

    Raises:
        ConfigError: config or weights not found, or weights that do not fill the backbone.
    """
    source = teacher_source(cfg)
    formats = source.input_format, cfg.INPUT.FORMAT
    if formats[0] != formats[1] and set(formats) != {"BGR", "RGB"}:
        raise ConfigError(
            f"the teacher reads {formats[0]} images and the student {formats[1]}: only BGR and "
            "RGB can be turned into each other, set INPUT.FORMAT of both alike"
        )
    path = fetch(source.weights, "the teacher's weights (MODEL.PCKA.TEACHER.WEIGHTS)")
    with (
        refusing("the teacher of MODEL.PCKA.TEACHER cannot be built"),
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
    ):
        model = source.build()
    _check_usable(model, cfg)
    checkpointer = SafeCheckpointer(model)
    try:
        checkpointer.load(path)
    except ConfigError as error:
        raise ConfigError(f"the teacher's weights (MODEL.PCKA.TEACHER.WEIGHTS): {error}") from error
    except (RuntimeError, ValueError, AssertionError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"cannot use the teacher's weights {path}: {reason}. It has to be a detectron2 "
            "checkpoint (.pth with tensors alone, or the model zoo's .pkl)"
        ) from error
    missing_heads = _check_weights(checkpointer.incompatible, model, path)
    return FrozenTeacher(
        model,
        input_format=formats[0],
        student_format=formats[1],
        missing_heads=missing_heads,
    )


def _check_usable(model: Detector, cfg: CfgNode) -> None:
    """Raise ConfigError for a model that cannot teach, or not with images of this size."""
    backbone = feature_modules(model)["backbone"]
    if not hasattr(model, "preprocess_image"):
        raise ConfigError(
            f"the teacher is a {type(model).__name__}, which has no preprocess_image: take a "
            "detector, such as GeneralizedRCNN or RetinaNet"
        )
    # ViTDet pads to a square and would cut a larger image.
    square = getattr(backbone, "padding_constraints", {}).get("square_size", 0)
    if 0 < square < cfg.INPUT.MAX_SIZE_TRAIN:
        raise ConfigError(
            f"the teacher pads images to a square of {square} pixels, which INPUT.MAX_SIZE_TRAIN "
            f"{cfg.INPUT.MAX_SIZE_TRAIN} exceeds: lower it to {square}, or widen the square "
            f"(model.backbone.square_pad={-(-cfg.INPUT.MAX_SIZE_TRAIN // 64) * 64} in "
            "MODEL.PCKA.TEACHER.OPTS)"
        )


def _check_weights(incompatible: Any, model: nn.Module, path: str) -> tuple[str, ...]:
    """Raise ConfigError unless every parameter and buffer of the backbone came from the file.

    Args:
        incompatible: keys that did not match, as fvcore's checkpointer returns them.

    Returns:
        Entries of the heads that did not come from the file.
    """
    expected = {k for k in model.state_dict() if k.startswith("backbone.")}
    wrong_shape = {
        f"{k}: {tuple(found)} in the file, {tuple(wanted)} in the model"
        for k, found, wanted in incompatible.incorrect_shapes
        if k in expected
    }
    absent = {k for k in incompatible.missing_keys if not k.endswith("num_batches_tracked")}
    missing, missing_heads = absent & expected, absent - expected
    missing -= {entry.split(":")[0] for entry in wrong_shape}
    matched = len(expected) - len(missing) - len(wrong_shape)
    summary = (
        f"teacher weights {path}: {matched} of {len(expected)} backbone entries matched, "
        f"{len(missing)} missing, {len(wrong_shape)} of another shape, "
        f"{len(incompatible.unexpected_keys)} unexpected in the file"
    )
    heads = len(model.state_dict()) - len(expected)
    logger.info(f"{summary}; {heads - len(missing_heads)} of {heads} entries of the heads matched")
    if missing_heads:
        logger.info("heads never teach:\n" + _listing("missing", missing_heads))
    surplus = incompatible.unexpected_keys
    if surplus:
        logger.warning(
            "part of the file has no place in the teacher's config; if these belong to the "
            "backbone, it is of another network:\n" + _listing("unexpected", surplus)
        )
    if missing or wrong_shape:
        examples = "; ".join(
            f"{title}: {', '.join(sorted(keys)[:3])}{' ...' if len(keys) > 3 else ''}"
            for title, keys in (
                ("missing", missing),
                ("other shape", wrong_shape),
                ("unexpected", surplus),
            )
            if keys
        )
        raise ConfigError(
            f"{summary}. A teacher with random weights teaches nothing; give weights that fit "
            f"MODEL.PCKA.TEACHER.CONFIG_FILE. {examples}"
        )
    return tuple(sorted(missing_heads))


def _listing(title: str, keys, most: int = 10) -> str:
    keys = sorted(keys)
    lines = [f"  {title}: {key}\n" for key in keys[:most]]
    return "".join(lines) + (f"  ... and {len(keys) - most} more {title}\n" if keys[most:] else "")
