"""detectron2's trainer, with COCO evaluation and a resume that continues the same run."""

import itertools
import logging
import os
import weakref
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from pcka.core import DistillTerms
from pcka.core.losses.base import DistillLoss
from pcka.detection.checks.student_weights import check_start
from pcka.detection.checks.translation import refusing, report_once
from pcka.detection.config import ConfigError
from pcka.detection.config_terms import distils
from pcka.detection.data.mapper import NamingMapper
from pcka.detection.modeling.features import Detector

from .best import BestHook
from .checkpointer import StudentCheckpointer
from .hooks import RandomStateHook, SummaryHook, TeacherCheckHook, UnusedParametersHook
from .precision import MixedPrecisionTrainer, StepTrainer, step_dtype
from .processes import share_buffers, share_model
from .stream import TrainingStream, random_state, set_random_state


class Trainer(DefaultTrainer):
    """``DefaultTrainer`` for a config with MODEL.PCKA.

    A config without any active term trains exactly as ``DefaultTrainer`` does, with detectron2's
    own loader. With terms, a run that was killed and resumed ends in the same weights as one that
    was not (on CPU, with the same number of processes).
    """

    def __init__(self, cfg: CfgNode, *, hooks: Sequence[HookBase] = ()):
        """
        Args:
            cfg: its batch size is that of all processes together or, with
                SOLVER.REFERENCE_WORLD_SIZE, of that many.
            hooks: run before the trainer's own hooks, so that the writers of the same iteration
                write what they log.

        Raises:
            ConfigError: maps that are too small for a term, or a model that several processes
                cannot train.
        """
        # DefaultTrainer.__init__ is left out: its DDP needs GPUs, its mixed precision CUDA.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        report_once()
        dtype = step_dtype(cfg)
        with refusing("the student of this config cannot be built"):
            model = self.build_model(cfg)
        with refusing("the optimizer of this config cannot be built"):
            optimizer = self.build_optimizer(cfg, model)
            self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        with refusing("the training data cannot be loaded"):
            loader = self.build_train_loader(cfg)
            if distils(cfg):
                check_maps(cfg, model.student, model.distill, image_sizes(cfg, loader))
        parts = share_model(model), loader, optimizer
        self._trainer = (
            StepTrainer(*parts) if dtype is None else MixedPrecisionTrainer(*parts, dtype=dtype)
        )
        self.checkpointer = StudentCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks([*hooks, *self.build_hooks()])

    @property
    def exact_resume(self) -> bool:
        return hasattr(self.data_loader, "stream")

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint or MODEL.WEIGHTS.

        Raises:
            ConfigError: a checkpoint that not all processes see.
        """
        super().resume_or_load(resume)
        if self.start_iter == 0 and self.cfg.MODEL.WEIGHTS:
            incompatible, student = self.checkpointer.incompatible, self.checkpointer.model
            check_start(incompatible, student, self.cfg.MODEL.WEIGHTS)
        starts = comm.all_gather(self.start_iter)
        if len(set(starts)) > 1:
            raise ConfigError(
                f"the processes would go on from the iterations {starts}: to resume, OUTPUT_DIR "
                f"{self.cfg.OUTPUT_DIR} has to be one folder that all machines see"
            )

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, seed: int | None = None, skip_steps: int = 0):
        """Build detectron2's loader; with active terms, over a stream that a resume continues."""
        if not distils(cfg) or cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
            return build_detection_train_loader(cfg, mapper=NamingMapper(cfg, is_train=True))
        dicts = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=(
                cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
            ),
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
        stream = TrainingStream(
            dicts,
            NamingMapper(cfg, is_train=True),
            seed=comm.shared_random_seed() if seed is None else seed,
            batch_size=cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
            group_by_aspect=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            skip_steps=skip_steps,
        )
        loader = build_detection_train_loader(
            stream,
            mapper=None,
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            # Without a seed, starting the loader would draw from the model's random numbers.
            seed=stream.seed,
        )
        loader.stream = stream
        return loader

    def build_hooks(self):
        hooks = super().build_hooks()
        if self.exact_resume:
            # Inserted first so that the states are gathered when the checkpointer saves.
            hooks.insert(0, RandomStateHook())
        if distils(self.cfg):
            hooks.insert(0, TeacherCheckHook())
        if comm.get_world_size() > 1:
            hooks.insert(0, UnusedParametersHook())
        if not comm.is_main_process():
            return hooks
        # Both come after the hook that evaluates; the summary holds the results of the last one.
        return [*hooks, BestHook(), SummaryHook()]

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Build detectron2's loader, with errors that name the image."""
        mapper = NamingMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        return COCOEvaluator(
            dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        )

    @classmethod
    def test(cls, cfg: CfgNode, model, evaluators=None):
        """Evaluate the model of process 0 on all processes.

        Distillation runs restore the random state afterwards, because a resumed run does not
        repeat the evaluations that came before its checkpoint.
        """
        share_buffers(model)
        if not distils(cfg):
            return super().test(cfg, model, evaluators)
        state = random_state()
        try:
            return super().test(cfg, model, evaluators)
        finally:
            set_random_state(state)


def check_maps(cfg: CfgNode, student: Detector, distill: DistillTerms, sizes: np.ndarray) -> None:
    """Check that every image of the data is large enough for the terms' patches on all levels.

    Args:
        cfg: the config of the run.
        student: its backbone knows the padding.
        distill: the terms.
        sizes: ``(n, 2)`` height and width of the training images in pixels.

    Raises:
        ConfigError: an image that is too small; names term, level, size and remedy.
    """
    short = min(cfg.INPUT.MIN_SIZE_TRAIN)
    divisor = max(student.backbone.size_divisibility, 1)
    for height, width in sorted({tuple(size) for size in sizes.tolist()}):
        for h, w in smallest_crops(cfg, height, width):
            crop = "" if (h, w) == (height, width) else f", cropped to {h}x{w}"
            if short > 0:
                h, w = ResizeShortestEdge.get_output_shape(h, w, short, cfg.INPUT.MAX_SIZE_TRAIN)
            h, w = (-(-side // divisor) * divisor for side in (h, w))
            for key, pair in distill.pairings.items():
                stride, loss = pair.stride, cast(DistillLoss, distill.losses[key])
                try:
                    loss.check_map(-(-h // stride), -(-w // stride))
                except ValueError as error:
                    raise ConfigError(
                        f"MODEL.PCKA.TERMS: {key}: an image of {height}x{width} pixels{crop}, "
                        f"{h}x{w} in the network, gives {error}"
                    ) from error


def image_sizes(cfg: CfgNode, loader: Any) -> np.ndarray:
    """Return height and width ``(n, 2)`` of the training images."""
    if hasattr(loader, "stream"):
        return loader.stream.sizes
    dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    return np.array([(d["height"], d["width"]) for d in dicts])


def smallest_crops(cfg: CfgNode, height: int, width: int) -> list[tuple[int, int]]:
    """Return the extreme crops of an image that INPUT.CROP may draw; itself without cropping."""
    crop = cfg.INPUT.CROP
    if not crop.ENABLED:
        return [(height, width)]
    a, b = crop.SIZE
    if crop.TYPE == "absolute":
        return [(min(int(a), height), min(int(b), width))]
    if crop.TYPE == "absolute_range":
        least, most = int(a), int(b)
        return [
            (min(h, height), min(w, width))
            for h, w in itertools.product((least, most), (least, most))
        ]
    if crop.TYPE == "relative":
        return [(int(height * a + 0.5), int(width * b + 0.5))]
    return [
        (int(height * h + 0.5), int(width * w + 0.5)) for h, w in itertools.product((a, 1), (b, 1))
    ]
