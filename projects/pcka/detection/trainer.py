"""detectron2's trainer, with COCO evaluation and a resume that continues the same run."""

import json
import os
import time

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm

from .config import ConfigError, distils, student_config
from .distiller import DistilledDetector
from .stream import TrainingStream, random_state, set_random_state
from .teacher_checks import check_ap, check_pixels


class Trainer(DefaultTrainer):
    """``DefaultTrainer`` for a config with MODEL.PCKA.

    A config without any active term trains exactly as ``DefaultTrainer`` does, detectron2's own
    loader included. With terms, a run that is killed and resumed ends in the same weights as one
    that was not (one process, CPU).
    """

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        if self.exact_resume:
            check_maps(cfg, unwrapped(self.model), self.data_loader.stream.sizes)

    @property
    def exact_resume(self) -> bool:
        return hasattr(self.data_loader, "stream")

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, seed: int | None = None, skip_steps: int = 0):
        """detectron2's loader; with active terms over a stream that can be taken up again."""
        if not distils(cfg) or cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
            return super().build_train_loader(cfg)
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
            DatasetMapper(cfg, is_train=True),
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
            # Else starting the loader would draw from the model's random numbers.
            seed=stream.seed,
        )
        loader.stream = stream
        return loader

    def build_hooks(self):
        hooks = super().build_hooks()
        if self.exact_resume:
            hooks.append(RandomStateHook())
        if distils(self.cfg):
            hooks.insert(0, TeacherCheckHook())
        # Last, after the final evaluation.
        return [*hooks, SummaryHook()] if comm.is_main_process() else hooks

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        return COCOEvaluator(
            dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        )

    @classmethod
    def test(cls, cfg: CfgNode, model, evaluators=None):
        """As detectron2's; in a distillation run, without a trace in the random state.

        A resumed run does not repeat the evaluations that the first one made on its way.
        """
        if not distils(cfg):
            return super().test(cfg, model, evaluators)
        state = random_state()
        try:
            return super().test(cfg, model, evaluators)
        finally:
            set_random_state(state)


class TeacherCheckHook(HookBase):
    """Checks the teacher's images and AP before the first step; a resumed run has passed."""

    def before_train(self) -> None:
        trainer = self.trainer
        if trainer.start_iter > 0:
            return
        model = unwrapped(trainer.model)
        if trainer.exact_resume and comm.is_main_process():
            check_pixels(model.teacher, trainer.cfg, trainer.data_loader.stream.dicts)
        if trainer.cfg.MODEL.PCKA.TEACHER.MIN_AP > 0:
            check_ap(model.teacher, trainer.cfg, model.device)


class RandomStateHook(HookBase):
    """Carries the random state and the position in the training data through a checkpoint."""

    def __init__(self):
        self._loaded = None

    def state_dict(self) -> dict:
        return {
            **random_state(),
            "stream_seed": self.trainer.data_loader.stream.seed,
            # One-stage detectors keep a running mean of their positives as a bare number.
            "student_numbers": {
                key: value
                for key, value in vars(unwrapped(self.trainer.model).student).items()
                if type(value) is float
            },
        }

    def load_state_dict(self, state: dict) -> None:
        self._loaded = state

    def before_train(self) -> None:
        if self._loaded is None:
            return
        trainer = self.trainer
        trainer._trainer.reset_data_loader(
            lambda: trainer.build_train_loader(
                trainer.cfg, seed=self._loaded["stream_seed"], skip_steps=trainer.start_iter
            )
        )
        vars(unwrapped(trainer.model).student).update(self._loaded["student_numbers"])
        set_random_state(self._loaded)
        self._loaded = None


class SummaryHook(HookBase):
    """Writes ``summary.json`` (AP, parameters, seconds, ...) and the student's plain config."""

    def before_train(self) -> None:
        self._start = time.perf_counter()
        cfg = self.trainer.cfg
        with open(os.path.join(cfg.OUTPUT_DIR, "student.yaml"), "w") as file:
            file.write(student_config(cfg).dump())

    def after_train(self) -> None:
        trainer = self.trainer
        path = os.path.join(trainer.cfg.OUTPUT_DIR, "summary.json")
        resumed_at_the_end = trainer.start_iter >= trainer.max_iter and os.path.exists(path)
        # Stopped early, or finished before and resumed: those figures stand.
        if trainer.iter < trainer.max_iter or resumed_at_the_end:
            return
        model = unwrapped(trainer.model)
        student = model.student if isinstance(model, DistilledDetector) else model
        summary = {
            "iterations": trainer.max_iter,
            "seed": trainer.cfg.SEED,
            "parameters": sum(p.numel() for p in student.parameters()),
            "seconds": time.perf_counter() - self._start,
            "first_iteration": trainer.start_iter,
            "device": trainer.cfg.MODEL.DEVICE,
            "threads": torch.get_num_threads(),
            "results": _json_values(getattr(trainer, "_last_eval_results", {})),
        }
        with open(path + ".part", "w") as file:
            json.dump(summary, file, indent=2)
        os.replace(path + ".part", path)


def _json_values(results: dict) -> dict:
    """Results with None for NaN (no object of that size), which JSON does not have."""
    return {
        key: _json_values(value) if isinstance(value, dict) else None if value != value else value
        for key, value in results.items()
    }


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside DistributedDataParallel, or itself."""
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        return model.module
    return model


def check_maps(cfg: CfgNode, model: DistilledDetector, sizes) -> None:
    """Stop if an image of the data is too small for a term's patches on some level.

    Args:
        sizes: ``(n, 2)`` height and width of the training images in pixels.

    Raises:
        ConfigError: names term, level, image size and remedy.
    """
    if cfg.INPUT.CROP.ENABLED:  # sizes are only known once a crop is drawn
        return
    short = min(cfg.INPUT.MIN_SIZE_TRAIN)
    divisor = max(model.student.backbone.size_divisibility, 1)
    for height, width in sorted({tuple(size) for size in sizes.tolist()}):
        h, w = height, width
        if short > 0:
            h, w = ResizeShortestEdge.get_output_shape(h, w, short, cfg.INPUT.MAX_SIZE_TRAIN)
        h, w = (-(-side // divisor) * divisor for side in (h, w))
        for key, pair in model.distill.pairings.items():
            stride = pair.stride
            try:
                model.distill.losses[key].check_map(-(-h // stride), -(-w // stride))
            except ValueError as error:
                raise ConfigError(
                    f"MODEL.PCKA.TERMS: {key}: an image of {height}x{width} pixels, {h}x{w} in "
                    f"the network, gives {error}"
                ) from error
