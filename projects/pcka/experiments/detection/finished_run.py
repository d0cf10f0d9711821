"""Opening a finished run of a detector, and drawing what its student took over."""

import logging
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.modeling import build_model
from matplotlib.figure import Figure
from torch import nn

from pcka.analysis import LayerReader, gram_figure, heatmap_figure, layer_similarity
from pcka.analysis.layers import check_layer
from pcka.core import DistillTerms, PatchCKA
from pcka.core.features import on_common_extent
from pcka.detection.config import ConfigError, load_config, student_config
from pcka.detection.config_terms import distils
from pcka.detection.data.coco_json import check_datasets, register_coco_json
from pcka.detection.engine.checkpointer import StudentCheckpointer
from pcka.detection.modeling.features import feature_modules, feature_shapes
from pcka.detection.modeling.teacher import FrozenTeacher
from pcka.detection.modeling.weights import fetch
from pcka.experiments.finished_runs import weights_of_run

logger = logging.getLogger(__name__)

DISTILLED = "distilled student"
IMAGES = 16  # images over which layers are compared: on a CPU, seconds to minutes


@dataclass(frozen=True)
class DetectionRun:
    """The networks of a run.

    Attributes:
        cfg: the config of the run, with a device that exists here.
        students: by name: the one before or without distillation, then the distilled one.
        teacher: the teacher as it taught.
        terms: the terms of each student that has any, with its adapters; the last are the run's.
    """

    cfg: CfgNode
    students: dict[str, nn.Module]
    teacher: FrozenTeacher
    terms: dict[str, DistillTerms]

    @property
    def device(self) -> torch.device:
        return torch.device(self.cfg.MODEL.DEVICE)

    def reader(self, network: nn.Module | FrozenTeacher, names: Sequence[str] = ()) -> LayerReader:
        """Return a reader of FPN levels and stages, or of those named, from detectron2 batches.

        Raises:
            ConfigError: a name that the network does not have.
        """
        forward = None
        if isinstance(network, FrozenTeacher):
            model, teacher = network.model, network
            forward = lambda inputs: teacher(inputs, self.device)  # noqa: E731
        else:
            model = network
        strides = {n: s.stride for n, s in feature_shapes(model).items() if s.stride}
        for name in names:
            check_layer(name, list(strides), where=type(model).__name__)
        return LayerReader(
            model,
            feature_modules(model),
            forward=forward,
            strides={name: strides[name] for name in names or strides},
        )

    def inputs(self, images: int, first: int = 0) -> Iterator[list[dict]]:
        """Yield evaluation images one by one, as the student's evaluation loads them."""
        mapper = DatasetMapper(self.cfg, is_train=False)
        for record in DatasetCatalog.get(self.cfg.DATASETS.TEST[0])[first : first + images]:
            yield [mapper(record)]


def open_run(folder: str | Path, *, alone: str | Path = "") -> DetectionRun:
    """Build the networks of a finished distillation and load their weights.

    Args:
        folder: the output folder of ``pcka train``.
        alone: the folder of the student trained alone; if None, the student stands beside its own
            initial weights, drawn again from the run's seed.

    Raises:
        ConfigError: no run, one that is not finished or had no teacher, a teacher or data that are
            missing.
    """
    weights = weights_of_run(Path(folder), kind="detection")
    cfg = _config(folder)
    if not distils(cfg):
        raise ConfigError(f"the run in {folder} had no teacher: there is nothing to compare with")
    students = {"student alone": _trained_alone(Path(alone))} if alone else {}
    register_coco_json(cfg)
    problems = check_datasets(cfg, list(cfg.DATASETS.TEST[:1]))
    if problems or not cfg.DATASETS.TEST:
        raise ConfigError(f"no images of DATASETS.TEST: {'; '.join(problems) or 'it is empty'}")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if cfg.SEED >= 0:
            torch.manual_seed(cfg.SEED)
        model = build_model(cfg)
    terms = {}
    if not alone:
        if cfg.MODEL.WEIGHTS:
            path = fetch(cfg.MODEL.WEIGHTS, "the student's initial weights (MODEL.WEIGHTS)")
            StudentCheckpointer(model).load(path)
        # Without a seed, the initial weights of the run cannot be drawn again.
        name = "student before" if cfg.SEED >= 0 else "student before, of another seed"
        students[name], terms[name] = deepcopy(model.student), deepcopy(model.distill)
    StudentCheckpointer(model).load(str(weights))
    students[DISTILLED], terms[DISTILLED] = model.student, model.distill
    return DetectionRun(cfg, students, model.teacher, terms)


def draw_pictures(
    folder: str | Path,
    *,
    alone: str | Path = "",
    images: int | None = None,
    image: int = 0,
    student_layers: Sequence[str] = (),
    teacher_layers: Sequence[str] = (),
) -> Iterator[tuple[str, Figure]]:
    """Draw CKA between layers, and Gram matrices of every level of PatchCKA, each with a name.

    Args:
        folder, alone: see :func:`open_run`.
        images: how many of the first evaluation images layers are compared over.
        image: the number of the image whose Gram matrices are drawn, counted from 0.
        student_layers, teacher_layers: levels such as p3 or res4; empty for all.

    Raises:
        ConfigError: see :func:`open_run`; or a layer or an image that does not exist.
    """
    layers = {"student_layers": student_layers, "teacher_layers": teacher_layers}
    yield from figures(open_run(folder, alone=alone), images=images, image=image, **layers)


def figures(
    run: DetectionRun,
    *,
    images: int | None = None,
    image: int = 0,
    student_layers: Sequence[str] = (),
    teacher_layers: Sequence[str] = (),
) -> Iterator[tuple[str, Figure]]:
    """Draw the pictures of :func:`draw_pictures` for a run that is open."""
    inputs = next(run.inputs(1, image), None)
    if inputs is None:
        raise ConfigError(f"{run.cfg.DATASETS.TEST[0]} has no image {image}")
    teacher = run.reader(run.teacher, teacher_layers)
    students = {name: run.reader(net, student_layers) for name, net in run.students.items()}
    for name, student in students.items():
        found = layer_similarity(student, teacher, run.inputs(images or IMAGES), pool="cells")
        title = f"CKA between layers, {name}, {run.cfg.DATASETS.TEST[0]}"
        yield f"layers_{_slug(name)}", heatmap_figure(*found, title, row_label=name)
    for name, figure in _patch_figures(run, inputs, f"image {image}"):
        yield f"patches_{name}", figure


def _patch_figures(
    run: DetectionRun, inputs: list[dict], image: str
) -> Iterator[tuple[str, Figure]]:
    """Draw the Gram matrices of each loss of PatchCKA, by its name."""
    taught = run.reader(run.teacher)(inputs)
    learnt = {name: run.reader(network)(inputs) for name, network in run.students.items()}
    pixels = convert_image_to_rgb(inputs[0]["image"].permute(1, 2, 0), run.cfg.INPUT.FORMAT)
    *_, distill = run.terms.values()
    for key, pair in distill.pairings.items():
        loss = distill.losses[key]
        if not isinstance(loss, PatchCKA) or not pair.stride or not pair.teacher_stride:
            continue
        maps = {}
        for name, features in learnt.items():
            x, y = on_common_extent(
                features[pair.student], taught[pair.teacher], pair.stride, pair.teacher_stride
            )
            maps["teacher"] = y[0]
            with torch.no_grad():  # as the loss sees it
                maps[name] = (run.terms[name].adapters[key](x) if name in run.terms else x)[0]
        options = loss.patch_options
        (p, q), kind = options.patch_shape, "centred" if options.center else "uncentred"
        title = (
            f"{pair.student}, {image}: patches of {p}x{q} cells, grouping "
            f"{options.grouping}, {kind}"
        )
        yield key, gram_figure(pixels, maps, stride=pair.stride, title=title, options=options)


def _config(folder: str | Path) -> CfgNode:
    cfg = load_config(str(Path(folder) / "config.yaml"))
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.info(f"{folder}: trained on {cfg.MODEL.DEVICE}, computes on the CPU here")
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _trained_alone(folder: Path) -> nn.Module:
    weights = weights_of_run(folder, kind="detection")
    cfg = student_config(_config(folder))
    model = build_model(cfg)
    StudentCheckpointer(model).load(str(weights))
    return model


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")
