"""Opening a finished run of a classifier, and drawing what its student took over."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pcka.analysis import LayerReader, heatmap_figure, layer_similarity, logit_gram_figure
from pcka.analysis.layers import check_layer
from pcka.classification.building import build_distiller
from pcka.classification.checkpoints import load_weights
from pcka.classification.config import Config, load_config
from pcka.classification.data import Data, build_data
from pcka.classification.models import create_model, feature_modules
from pcka.classification.processes import Process
from pcka.classification.records import CONFIG
from pcka.classification.tapped_model import LOGITS
from pcka.classification.teacher import Teacher
from pcka.core import DistillTerms, LogitCKA
from pcka.errors import ConfigError
from pcka.experiments.finished_runs import weights_of_run

IMAGES = 512  # images over which layers are compared
_BATCH = 16  # small, so that batches spread over a set that is sorted by class


@dataclass(frozen=True)
class ClassificationRun:
    """The networks of a finished run.

    Attributes:
        cfg: the config of the run.
        students: by name: the one before or without distillation, then the distilled one.
        teacher: the teacher as it taught.
        terms: the terms of the run.
        data: the images of the run.
    """

    cfg: Config
    students: dict[str, nn.Module]
    teacher: Teacher
    terms: DistillTerms
    data: Data

    def reader(self, network: nn.Module | Teacher, names: Sequence[str] = ()) -> LayerReader:
        """Return a reader of named features and logits, or of those named, from (images, labels).

        Raises:
            ConfigError: neither a named feature nor the path of a submodule.
        """
        model = network.model if isinstance(network, Teacher) else network
        prepare = network.normalize if isinstance(network, Teacher) else nn.Identity()
        modules = _layers(model, names)
        return LayerReader(model, modules, forward=lambda batch: model(prepare(batch[0])))

    def batches(self, images: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield about that many evaluation images, in batches spread evenly over the set."""
        loader = self.data.val
        count = min(len(loader), -(-images // _BATCH))
        for index in np.linspace(0, len(loader) - 1, count).round().astype(int).tolist():
            yield next(iter(loader.epoch(0, index)))


def open_run(folder: str | Path, *, alone: str | Path = "") -> ClassificationRun:
    """Build the networks of a finished distillation and load their weights.

    Args:
        folder: the ``output_dir`` of ``pcka classify``.
        alone: the folder of the student trained alone; if None, the student stands beside its own
            initial weights, drawn again from the run's seed.

    Raises:
        ConfigError: no run, one that is not finished or had no teacher, a teacher
            or data that are missing.
    """
    weights = weights_of_run(Path(folder), kind="classification")
    cfg = load_config([Path(folder) / CONFIG])
    if not cfg.distils:
        raise ConfigError(f"the run in {folder} had no teacher: there is nothing to compare with")
    process = Process(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    # Workers would not help, because each batch jumps in the order of the images.
    data = build_data(
        replace(cfg.data, workers=0), batch_size=_BATCH, seed=cfg.seed, device=process.device
    )
    distiller = build_distiller(cfg, data, process)
    student = distiller.student
    if alone:
        first = {"student alone": _trained_alone(Path(alone), len(data.classes))}
    else:
        first = {"student before": deepcopy(student)}
    load_weights(student, str(weights))
    students = {**first, "distilled student": student}
    for model in students.values():
        model.to(process.device)
    assert distiller.teacher is not None and distiller.distill is not None  # the config distils
    return ClassificationRun(cfg, students, distiller.teacher, distiller.distill, data)


def draw_pictures(
    folder: str | Path,
    *,
    alone: str | Path = "",
    images: int | None = None,
    student_layers: Sequence[str] = (),
    teacher_layers: Sequence[str] = (),
) -> Iterator[tuple[str, Figure]]:
    """Draw CKA between layers, and Gram matrices of the logits, each with a name.

    Args:
        folder, alone: see :func:`open_run`.
        images: about how many evaluation images are used, spread over the set.
        student_layers, teacher_layers: features such as stage2, or paths of submodules; empty for
            all named features and the logits.

    Raises:
        ConfigError: see :func:`open_run`; or a layer that does not exist.
    """
    layers = {"student_layers": student_layers, "teacher_layers": teacher_layers}
    yield from figures(open_run(folder, alone=alone), images=images, **layers)


def figures(
    run: ClassificationRun,
    *,
    images: int | None = None,
    student_layers: Sequence[str] = (),
    teacher_layers: Sequence[str] = (),
) -> Iterator[tuple[str, Figure]]:
    """Draw the pictures of :func:`draw_pictures` for a run that is open."""
    teacher = run.reader(run.teacher, teacher_layers)
    students = {name: run.reader(model, student_layers) for name, model in run.students.items()}
    for name, student in students.items():
        found = layer_similarity(student, teacher, run.batches(images or IMAGES))
        title = f"CKA between layers, {name}, {run.cfg.data.name}"
        yield f"layers_{name.replace(' ', '_')}", heatmap_figure(*found, title, row_label=name)
    yield "logits", _logit_figure(run, images or IMAGES)


def _logit_figure(run: ClassificationRun, images: int) -> Figure:
    """Draw logits as the run's first LogitCKA compares them; centred if there is none."""
    networks: dict[str, nn.Module | Teacher] = {"teacher": run.teacher, **run.students}
    readers = {name: run.reader(network, [LOGITS]) for name, network in networks.items()}
    logits: dict[str, list[Tensor]] = {name: [] for name in readers}
    labels = []
    for batch in run.batches(images):
        labels.append(batch[1])
        for name, reader in readers.items():
            logits[name].append(reader(batch)[LOGITS])
    options = next((m.options for m in run.terms.losses.values() if isinstance(m, LogitCKA)), {})
    return logit_gram_figure(
        {name: torch.cat(parts) for name, parts in logits.items()},
        torch.cat(labels),
        run.data.classes,
        center=options.get("center", True),
        temperature=options.get("temperature"),
        title=f"Logits of {sum(map(len, labels))} images, {run.cfg.data.name}",
    )


def _trained_alone(folder: Path, classes: int) -> nn.Module:
    weights = weights_of_run(folder, kind="classification")
    student = create_model(load_config([folder / CONFIG]).student.name, classes)
    load_weights(student, str(weights))
    return student


def _layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return modules by name; without names all features, each module once, and the logits."""
    features = feature_modules(model)
    if not names:
        once = {module: name for name, module in reversed(features.items())}
        return {**{name: m for name, m in features.items() if once[m] == name}, LOGITS: model}
    known = dict.fromkeys([*features, LOGITS, *(path for path, _ in model.named_modules() if path)])
    for name in names:
        check_layer(name, list(known), where=type(model).__name__)
    found = feature_modules(model, [name for name in names if name != LOGITS])
    return {name: model if name == LOGITS else found[name] for name in names}
