"""Building the images, networks and terms of a run from its config."""

import logging
from typing import Any

import torch
from torch import nn

from pcka.errors import ConfigError

from .checkpoints import LoadedWeights, load_weights
from .config import Config
from .data import Data, EvaluationData, build_data
from .data.batches import seed_of
from .distiller import Distiller, build_terms
from .evaluate import Accuracy, evaluate
from .models import create_model
from .processes import Process
from .teacher import Teacher
from .update import AUTOCAST, autocast

logger = logging.getLogger("classification")

_GPU = "cuda"  # the device on which a teacher is prepared


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


def build_network(
    side: str, name: str, weights: str, data: Data | EvaluationData, *, trained: bool = True
) -> nn.Module:
    """Build a network of as many classes as the data has, and load its weights if there are any.

    Args:
        side: ``student`` or ``teacher``, for messages.
        name: the name of the network.
        weights: file, or "".
        data: classes, and the size of the images.
        trained: whether the weights are those of a network that knows the classes of the data.

    Raises:
        ConfigError: an unknown name, images that the network cannot take, or weights that do not
            fit or, if ``trained``, are of other classes.
    """
    try:
        model = create_model(name, len(data.classes))
    except ValueError as error:
        raise ConfigError(f"{side}.name: {error}") from error
    _check_image_size(side, name, model, data.image_size)
    if weights:
        loaded = load_weights(model, weights)
        logger.info("%s: %s", side, loaded)
        _check_classes(side, loaded, data.classes, trained=trained)
    return model


@torch.no_grad()
def _check_image_size(side: str, name: str, model: nn.Module, size: int) -> None:
    """Raise ConfigError where a network cannot take images of ``size`` pixels a side."""
    try:
        model.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{side}.name {name} cannot take images of {size}x{size} pixels ({reason}): set "
            "data.image_size to a size that it takes, or name another network"
        ) from error
    finally:
        model.train()


def _check_classes(
    side: str, loaded: LoadedWeights, classes: tuple[str, ...], *, trained: bool
) -> None:
    """Compare the class names that a run of ours keeps beside its weights with the data's."""
    theirs = loaded.classes
    if not theirs or theirs == classes:
        return
    pairs = zip(theirs, classes, strict=True)  # as many as the network has outputs
    label, (was, now) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    words = f"{side}.weights {loaded.path} were trained on other classes than the data's: class "
    words += f"{label} was {was!r}, is {now!r}"
    if trained:
        raise ConfigError(f"{words}. Give the class folders the names of that training")
    logger.warning(words)


def build_distiller(cfg: Config, data: Data, process: Process) -> Distiller:
    """Student and, where a term is on, teacher and terms, on the process's device.

    The student starts the same with and without a teacher.
    """
    torch.manual_seed(seed_of(cfg.seed))
    student = build_network("student", cfg.student.name, cfg.student.weights, data, trained=False)
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


def check_teacher(cfg: Config, teacher: Teacher, data: Data, process: Process) -> Accuracy:
    """Measure the teacher on the evaluated images and stop below ``teacher.min_accuracy``."""
    accuracy = evaluate(teacher.model, data.val, process, transform=teacher.normalize)
    chance = 100 * max(1 / len(data.classes), data.majority)
    assert cfg.teacher is not None  # it was built from it
    least = cfg.teacher.min_accuracy
    if least is None:
        least = min(chance + 5, 2 * chance, (100 + chance) / 2)
    if accuracy.top1 < least:
        raise ConfigError(
            f"the teacher {cfg.teacher.name} reaches {accuracy}, less than {least:.2f} (always the "
            f"most frequent class: {chance:.2f}): was {cfg.teacher.weights} trained on these "
            "classes, in this order, with this mean and std? See teacher.mean, teacher.std, "
            "teacher.min_accuracy"
        )
    logger.info("teacher %s: %s", cfg.teacher.name, accuracy)
    return accuracy


def prepare_teacher(
    cfg: Config, teacher: Teacher, data: Data, process: Process, before: Accuracy | None
) -> None:
    """Prepare the teacher for a GPU, and check that it still answers as ``before``.

    Raises:
        ConfigError: its accuracy moved by more than 0.1 percent and more than two images.
    """
    assert cfg.teacher is not None  # it was built from it
    if process.device.type != _GPU or not cfg.teacher.prepare:
        return
    size = data.image_size
    image = torch.zeros(1, 3, size, size, device=process.device)
    folded = teacher.prepare(image, AUTOCAST.get(cfg.train.amp))
    logger.info("teacher %s: %d BatchNorm layers are folded", cfg.teacher.name, folded)
    if before is None:
        return
    with autocast(cfg.train.amp, process.device):
        after = evaluate(teacher.model, data.val, process, transform=teacher.normalize)
    if abs(after.top1 - before.top1) > max(0.1, 200 / before.samples):
        raise ConfigError(
            f"the teacher {cfg.teacher.name} reaches {before}, but {after} with its BatchNorm "
            f"folded and in train.amp {cfg.train.amp}: set teacher.prepare false, or train.amp none"
        )
