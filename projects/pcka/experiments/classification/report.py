"""The sections of a page about classifiers: accuracy, terms in training, and predictions.

Letters: N images that are evaluated, P classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcka.classification.checkpoints import load_weights
from pcka.classification.config import Config
from pcka.classification.data import Data, build_data
from pcka.classification.models import create_model
from pcka.classification.records import STUDENT, accuracy_curve, read_metrics
from pcka.classification.teacher import Teacher
from pcka.errors import ConfigError
from pcka.experiments.pages.curves import Curve
from pcka.experiments.pages.html import Picture, Section
from pcka.experiments.pages.relations import relations_section
from pcka.experiments.pages.training import training_section
from pcka.experiments.study.run import Run

from .figures import accuracy_figure, predictions_figure
from .finished_run import draw_pictures

_DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_MOST_STUDENTS = 3  # lines below an image, besides its class and the teacher


class Predictions(NamedTuple):
    """Predictions of a classifier."""

    classes: Tensor  # (N,) int64
    truth: Tensor  # (N,) float32: probability of the true class
    labels: Tensor  # (N,) int64: the true classes


def page_sections(
    students: Mapping[str, Sequence[Run]], teacher: Run | None, *, images: int
) -> list[Section]:
    """Draw finished runs as sections of a page; see the same function for detectors."""
    firsts = {label: runs[0] for label, runs in students.items()}
    training = training_section(
        {label: term_curves(run.output_dir) for label, run in firsts.items()},
        x_label="epoch",
        own="the cross-entropy",
        option="train.gradient_every",
    )
    predictions = predictions_section(firsts, teacher, images)
    relations = relations_section(firsts, draw_pictures)
    return [accuracy_section(students, teacher), training, relations, predictions]


def accuracy_section(students: Mapping[str, Sequence[Run]], teacher: Run | None) -> Section:
    """Draw top-1 over the epochs."""
    curves = {
        label: [accuracy_curve(run.output_dir) for run in runs] for label, runs in students.items()
    }
    title = "Accuracy"
    if not all(epochs for seeds in curves.values() for epochs, _ in seeds):
        return Section(title, ["The metrics of a run are missing, so there is no curve."])
    figure = accuracy_figure(curves, teacher=teacher.results["top-1"] if teacher else None)
    alt = f"Top-1 accuracy over the epochs, and after the last one, of {', '.join(curves)}"
    return Section(title, (), [Picture(figure, alt, wide=True)])


def term_curves(folder: Path) -> dict[str, Curve]:
    """Read the scalars of a run's terms by full name, such as ``cka/fcka_last``."""
    rows = read_metrics(folder)
    names = [name for name in (rows[0] if rows else ()) if "/" in name]
    curves: dict[str, Curve] = {}
    for name in names:
        points = [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
        if points:
            epochs, values = zip(*points, strict=True)
            curves[name] = np.array(epochs), np.array(values)
    return curves


def predictions_section(runs: Mapping[str, Run], teacher: Run | None, images: int) -> Section:
    """Draw images that the first and the last run take for different classes.

    They are sorted by how much the two probabilities of the true class differ, the largest
    difference first. For a single run its surest mistakes are shown.
    """
    labels = list(runs)
    shown = labels if len(labels) <= _MOST_STUDENTS else [labels[0], labels[-1]]
    title = "Predictions"
    cfg = runs[labels[0]].config
    try:
        if any(runs[label].config.data != cfg.data for label in shown):
            raise ConfigError(
                "These runs have different data, so their predictions cannot be compared."
            )
        data = _data(cfg)
        found = {label: predict(runs[label], data) for label in shown}
    except ConfigError as error:
        return Section(title, [str(error)])
    first = found[shown[0]]
    truth = Predictions(first.labels, torch.ones(len(first.labels)), first.labels)
    last = found[shown[-1]] if len(shown) > 1 else truth
    text = []
    if "teacher" not in shown:
        try:
            found["teacher"] = _teacher_predictions(runs, teacher, data)
        except ConfigError as error:
            text.append(f"The teacher is not shown: {error}")
    differ = (first.classes != last.classes).nonzero()[:, 0]
    distance = (first.truth - last.truth).abs()[differ]
    chosen = differ[distance.argsort(descending=True, stable=True)][:images].tolist()
    text.insert(0, _choice(shown, len(differ), len(first.labels)))
    if not chosen:
        return Section(title, text)
    names = data.classes
    figure = predictions_figure(
        _pictures(data, cfg, chosen),
        [names[first.labels[i]] for i in chosen],
        {label: [names[p.classes[i]] for i in chosen] for label, p in found.items()},
    )
    alt = f"{len(chosen)} images, each with its class and what {', '.join(found)} take it for"
    return Section(title, text, [Picture(figure, alt)])


def predict(run: Run, data: Data) -> Predictions:
    """Predict with a run's final weights.

    Raises:
        ConfigError: the weights are missing, or do not fit the config.
    """
    path = run.output_dir / STUDENT
    if not path.is_file():
        raise ConfigError(f"{run.output_dir} holds no {STUDENT}, so it cannot predict.")
    model = create_model(run.config.student.name, len(data.classes))
    load_weights(model, path)
    return _predict(model.eval().to(_DEVICE), data)


def _teacher_predictions(runs: Mapping[str, Run], teacher: Run | None, data: Data) -> Predictions:
    """Predict with the teacher's own run, else with the teacher that the configs name."""
    if teacher is not None:
        return predict(teacher, data)
    taught = [run.config for run in runs.values() if run.is_taught]
    if not taught:
        raise ConfigError("no run here was taught.")
    cfg = taught[0]
    model = create_model(cfg.teacher.name, len(data.classes))
    if not Path(cfg.teacher.weights).is_file():
        raise ConfigError(f"its weights {cfg.teacher.weights} are gone.")
    load_weights(model, cfg.teacher.weights)
    frozen = Teacher(
        model.to(_DEVICE),
        mean=cfg.teacher.mean or cfg.data.mean,
        std=cfg.teacher.std or cfg.data.std,
        data_mean=cfg.data.mean,
        data_std=cfg.data.std,
    )
    return _predict(lambda images: frozen.model(frozen.normalize(images)), data)


@torch.inference_mode()
def _predict(model, data: Data) -> Predictions:
    batches = []
    for images, labels in data.val.epoch(0):
        probabilities = model(images).softmax(1)  # (B, P)
        of_truth = probabilities.gather(1, labels[:, None])[:, 0]
        batches.append((probabilities.argmax(1), of_truth, labels))
    return Predictions(*(torch.cat(parts).cpu() for parts in zip(*batches, strict=True)))


def _data(cfg: Config) -> Data:
    return build_data(cfg.data, batch_size=cfg.train.batch_size, seed=cfg.seed, device=_DEVICE)


def _pictures(data: Data, cfg: Config, chosen: Sequence[int]) -> np.ndarray:
    """Return the images of these numbers, ``(n, H, W, 3)`` in [0, 1]."""
    found: dict[int, Tensor] = {}
    start = 0
    for images, _ in data.val.epoch(0):
        found |= {i: images[i - start] for i in chosen if start <= i < start + len(images)}
        start += len(images)
        if start > max(chosen):
            break
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (cfg.data.mean, cfg.data.std))
    pixels = torch.stack([found[i] for i in chosen]).cpu() * std + mean
    return pixels.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _choice(shown: Sequence[str], differ: int, total: int) -> str:
    if len(shown) == 1:
        rule = f"{shown[0]} is wrong about {differ} of {total} images. Shown are those of which it"
        return f"{rule} gives the true class the least probability: no fair sample."
    return (
        f"{shown[0]} and {shown[-1]} take {differ} of {total} images for different classes. Shown "
        "are those whose true class they give the most different probabilities, whichever is "
        "better: no fair sample."
    )
