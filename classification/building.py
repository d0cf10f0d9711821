"""Building the images, networks and terms of a run from its config."""

import logging
from typing import Any

import torch
from torch import nn

from pcka.errors import ConfigError

from .checkpoints import load_weights
from .config import Config
from .data import Data, build_data
from .data.batches import seed_of
from .distiller import Distiller, Teacher, build_terms
from .evaluate import evaluate
from .models import create_model
from .processes import Process

logger = logging.getLogger("classification")


def build_run_data(cfg: Config, process: Process) -> Data:
    """Build the run's images, as this process sees them."""
    return build_data(
        cfg.data,
        batch_size=cfg.train.batch_size,
        seed=cfg.seed,
        device=process.device,
        rank=process.rank,
        world_size=process.world_size,
    )


def build_network(side: str, name: str, weights: str, data: Data) -> nn.Module:
    """Build a network of as many classes as the data has, and load its weights if there are any.

    Args:
        side: ``student`` or ``teacher``, for messages.
    """
    try:
        model = create_model(name, len(data.classes))
    except ValueError as error:
        raise ConfigError(f"{side}.name: {error}") from error
    if weights:
        logger.info("%s: %s", side, load_weights(model, weights))
    return model


def build_distiller(cfg: Config, data: Data, process: Process) -> Distiller:
    """Student and, where a term is on, teacher and terms, on the process's device.

    The student starts the same with and without a teacher.
    """
    torch.manual_seed(seed_of(cfg.seed))
    student = build_network("student", cfg.student.name, cfg.student.weights, data)
    options: dict[str, Any] = {"ce_weight": cfg.ce_weight}
    options["label_smoothing"] = cfg.train.label_smoothing
    if not cfg.distils or cfg.teacher is None:
        return Distiller(student, **options).to(process.device)
    if not cfg.teacher.weights:
        raise ConfigError("teacher.weights is empty, and random weights teach nothing: name a file")
    network = build_network("teacher", cfg.teacher.name, cfg.teacher.weights, data)
    try:
        terms, names = build_terms(cfg.terms, student, network, data.image_size)
    except ValueError as error:
        raise ConfigError(f"terms: {error}") from error
    mean, std = cfg.data.statistics
    teacher = Teacher(
        network.to(process.device),
        names,
        mean=cfg.teacher.mean or mean,
        std=cfg.teacher.std or std,
        data_mean=mean,
        data_std=std,
    )
    return Distiller(student, teacher, terms, **options).to(process.device)


def check_teacher(cfg: Config, teacher: Teacher, data: Data, process: Process) -> None:
    """Measure the teacher on the evaluated images and stop below ``teacher.min_accuracy``."""
    accuracy = evaluate(teacher.model, data.val, process, transform=teacher.normalize)
    chance = 100 / len(data.classes)
    assert cfg.teacher is not None  # it was built from it
    least = cfg.teacher.min_accuracy
    if least is None:
        least = min(chance + 5, 2 * chance)
    if accuracy.top1 < least:
        raise ConfigError(
            f"the teacher {cfg.teacher.name} reaches {accuracy}, less than {least:.2f} (chance is "
            f"{chance:.2f}): was {cfg.teacher.weights} trained on these classes, in this order, "
            "with this mean and std? See teacher.mean, teacher.std, teacher.min_accuracy"
        )
    logger.info("teacher %s: %s", cfg.teacher.name, accuracy)
