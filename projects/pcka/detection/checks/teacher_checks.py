"""Checks of a built teacher before training starts: the images it expects, and its AP."""

import logging
import os

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm

from pcka.detection.config import ConfigError
from pcka.detection.data.mapper import NamingMapper, naming
from pcka.detection.engine.stream import random_state, set_random_state
from pcka.detection.modeling.teacher import FrozenTeacher

logger = logging.getLogger(__name__)

# ImageNet's constants with tolerances, RGB from 0 to 255. Older Caffe weights have means that are
# up to 1 lower.
_KNOWN = {
    "PIXEL_MEAN": (np.array([123.675, 116.28, 103.53]), 1.5),
    "PIXEL_STD": (np.array([58.395, 57.12, 57.375]), 0.2),
}
_IMAGES = 8


def check_pixels(teacher: FrozenTeacher, cfg: CfgNode, dicts) -> list[str]:
    """Log and return warnings about pixel statistics that do not look right.

    Args:
        teacher: the built teacher.
        cfg: the config of the run.
        dicts: training images as detectron2's dictionaries; a few of them are read.
    """
    mean, std = (x.flatten().cpu().numpy() for x in teacher.pixel_statistics)
    warnings = constants_warnings(mean, std, teacher.input_format)
    indices = np.linspace(0, len(dicts) - 1, min(_IMAGES, len(dicts)), dtype=int)
    images = []
    for index in indices:
        file_name = dicts[int(index)]["file_name"]
        with naming(file_name):
            images.append(read_image(file_name, cfg.INPUT.FORMAT))
    if teacher.flip_channels:
        images = [image[..., ::-1] for image in images]
    warnings += statistics_warnings(images, mean, std)
    for warning in warnings:
        logger.warning(f"the teacher's pixel statistics look wrong: {warning}")
    return warnings


def constants_warnings(mean: np.ndarray, std: np.ndarray, input_format: str) -> list[str]:
    """Warn of ImageNet's constants in the other channel order, or for images from 0 to 1.

    Args:
        mean, std: ``(3,)``, in the order of ``input_format``.
    """
    warnings = []
    for key, values in (("PIXEL_MEAN", mean), ("PIXEL_STD", std)):
        known, tolerance = _KNOWN[key]
        orders = {"RGB": known, "BGR": known[::-1]}
        for scale, scaled in ((1, values), (255, 255 * values)):
            fits = [
                order
                for order, constants in orders.items()
                if len(values) == 3 and np.abs(scaled - constants).max() < tolerance
            ]
            if fits and input_format in orders and input_format not in fits:
                warnings.append(
                    f"{key} {_shown(values)} is ImageNet's in the order {fits[0]}, but "
                    f"INPUT.FORMAT is {input_format}: reverse one of them"
                )
            if fits and scale == 255:
                warnings.append(
                    f"{key} {_shown(values)} is for images from 0 to 1, but detectron2's are from "
                    "0 to 255: multiply it by 255"
                )
    return warnings


def statistics_warnings(images: list[np.ndarray], mean: np.ndarray, std: np.ndarray) -> list[str]:
    """Warn of images whose normalised pixels are far from mean 0 and std 1.

    Args:
        images: ``(H, W, C)`` in the order of ``mean``.
        mean, std: ``(C,)``.
    """
    # In Caffe's convention the first layer divides by the std.
    unit = std * _KNOWN["PIXEL_STD"][0].mean() if (std == 1).all() and mean.max() > 1 else std
    pixels = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])
    normalised = (pixels.astype(np.float32) - mean) / unit
    found_mean, found_std = normalised.mean(0), normalised.std(0)
    if np.abs(found_mean).max() < 2.5 and found_std.min() > 0.1 and found_std.max() < 4:
        return []
    return [
        f"{len(images)} training images, normalised by PIXEL_MEAN {_shown(mean)} and PIXEL_STD "
        f"{_shown(std)}, have mean {_shown(found_mean)} and std {_shown(found_std)} instead of "
        "about 0 and 1: is one of them scaled from 0 to 1, and the other from 0 to 255?"
    ]


def check_ap(teacher: FrozenTeacher, cfg: CfgNode, device: torch.device) -> float:
    """Measure the whole teacher on the first images of DATASETS.TEST[0].

    It reads the images of the student's evaluation, in its own channel order. The random state is
    left unchanged.

    Returns:
        The box AP in percent.

    Raises:
        ConfigError: an AP below MODEL.PCKA.TEACHER.MIN_AP, or a teacher that cannot detect there.
    """
    options, name = cfg.MODEL.PCKA.TEACHER, cfg.DATASETS.TEST[0]
    off = "or set MODEL.PCKA.TEACHER.MIN_AP to 0"
    if teacher.missing_heads:
        raise ConfigError(
            f"MODEL.PCKA.TEACHER.MIN_AP needs the teacher's heads, but its weights "
            f"leave {len(teacher.missing_heads)} entries of them unfilled, such as "
            f"{teacher.missing_heads[0]}: give the whole detector's weights, {off}"
        )
    dicts = DatasetCatalog.get(name)[: options.MIN_AP_IMAGES]
    classes = MetadataCatalog.get(name).thing_classes
    if teacher.num_classes != len(classes):
        raise ConfigError(
            f"MODEL.PCKA.TEACHER.MIN_AP: the teacher knows {teacher.num_classes} classes and "
            f"{name} has {len(classes)}, so its AP there means nothing: name a data set of its "
            f"classes first in DATASETS.TEST, {off}"
        )
    state = random_state()
    try:
        loader = build_detection_test_loader(
            dicts,
            mapper=NamingMapper(cfg, is_train=False),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
        evaluator = COCOEvaluator(
            name, ("bbox",), output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", "teacher")
        )
        evaluator.reset()
        for inputs in loader:
            evaluator.process(inputs, teacher.detect(inputs, device))
        results = evaluator.evaluate([d["image_id"] for d in dicts])
    finally:
        set_random_state(state)
    ap = comm.all_gather(results)[0]["bbox"]["AP"]
    logger.info(f"the teacher's box AP on the first {len(dicts)} images of {name}: {ap:.2f}")
    if not ap >= options.MIN_AP:  # NaN, where these images hold no object, fails as well
        raise ConfigError(
            f"the teacher has a box AP of {ap:.2f} on the first {len(dicts)} images of {name}, "
            f"below MODEL.PCKA.TEACHER.MIN_AP {options.MIN_AP}. Likely causes: weights of another "
            "network or training; INPUT.FORMAT, PIXEL_MEAN or PIXEL_STD; RESNETS.STRIDE_IN_1X1 "
            "with weights from elsewhere; classes in another order; images of another kind or size "
            f"(INPUT.MIN_SIZE_TEST). Correct MODEL.PCKA.TEACHER, {off}"
        )
    return ap


def _shown(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
