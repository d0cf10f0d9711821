"""Hooks of the trainer: the teacher's checks, exact resume, and the summary of a run."""

import logging
import os
import time
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm

from pcka.detection.checks.teacher_checks import check_ap, check_pixels
from pcka.detection.config import ConfigError, student_config
from pcka.detection.modeling.distilled_detector import DistilledDetector
from pcka.environment import ENVIRONMENT, environment
from pcka.files import write_json, write_text

from .best import BestHook
from .processes import unwrapped
from .stream import random_state, set_random_state

logger = logging.getLogger(__name__)


class TeacherCheckHook(HookBase):
    """Checks the teacher's pixel statistics and AP before the first step.

    A resumed run has passed these checks already.
    """

    def before_train(self) -> None:
        trainer = self.trainer
        if trainer.start_iter > 0:
            return
        model = unwrapped(trainer.model)
        if trainer.exact_resume and comm.is_main_process():
            check_pixels(model.teacher, trainer.cfg, trainer.data_loader.stream.dicts)
        if trainer.cfg.MODEL.PCKA.TEACHER.MIN_AP > 0:
            check_ap(model.teacher, trainer.cfg, model.device)


class UnusedParametersHook(HookBase):
    """Stops a run of several processes in which no loss reaches some parameter, and names it.

    DistributedDataParallel itself would stop one step later, with numbers instead of names.
    """

    def after_step(self) -> None:
        trainer = self.trainer
        if trainer.iter > trainer.start_iter:
            return
        parameters = unwrapped(trainer.model).named_parameters()
        unused = [name for name, p in parameters if p.requires_grad and p.grad is None]
        if unused:
            raise ConfigError(
                f"no loss reaches {len(unused)} parameters, which several processes cannot train: "
                f"{', '.join(unused[:8])}. Build the detector without them; for a level of the FPN "
                "that no head reads, leave its stage out of MODEL.FPN.IN_FEATURES"
            )


class RandomStateHook(HookBase):
    """Saves random states and the position in the training data in a checkpoint."""

    def __init__(self):
        self._loaded = self._processes = None

    def after_step(self) -> None:
        # Only rank 0 saves, so gather every rank's state first.
        done, period = self.trainer.iter + 1, self.trainer.cfg.SOLVER.CHECKPOINT_PERIOD
        if done % period == 0 or done == self.trainer.max_iter:
            self._processes = comm.all_gather(self._own_state())

    def _own_state(self) -> dict:
        return {
            **random_state(),
            # One-stage detectors keep a running mean of their positives as a plain float.
            "student_numbers": {
                key: value
                for key, value in vars(unwrapped(self.trainer.model).student).items()
                if type(value) is float
            },
        }

    def state_dict(self) -> dict:
        alone = comm.get_world_size() == 1
        return {
            "stream_seed": self.trainer.data_loader.stream.seed,
            "data": self.trainer.data_loader.stream.fingerprint,
            "processes": [self._own_state()] if alone else self._processes,
        }

    def load_state_dict(self, state: dict) -> None:
        self._loaded = state

    def before_train(self) -> None:
        if self._loaded is None:
            return
        trainer = self.trainer
        before, now = self._loaded.get("data"), trainer.data_loader.stream.fingerprint
        if before and before != now:
            raise ConfigError(
                f"cannot resume {trainer.cfg.OUTPUT_DIR}: DATASETS.TRAIN holds other data than at "
                f"its start ({before['images']} images then, {now['images']} now, or other names "
                "or annotations): put the data back, or start again in another OUTPUT_DIR"
            )
        trainer._trainer.reset_data_loader(
            lambda: trainer.build_train_loader(
                trainer.cfg, seed=self._loaded["stream_seed"], skip_steps=trainer.start_iter
            )
        )
        states, rank = self._loaded["processes"], comm.get_rank()
        if len(states) == comm.get_world_size():
            set_random_state(states[rank])
        else:
            logger.warning(
                f"the checkpoint is of {len(states)} process(es), this run has "
                f"{comm.get_world_size()}: it continues, but not exactly as the first would have"
            )
        numbers = states[rank % len(states)]["student_numbers"]
        vars(unwrapped(trainer.model).student).update(numbers)
        self._loaded = None


class SummaryHook(HookBase):
    """Writes the student's plain config, the environment and ``summary.json`` (AP, seconds)."""

    def before_train(self) -> None:
        self._start = time.perf_counter()
        cfg = self.trainer.cfg
        write_text(os.path.join(cfg.OUTPUT_DIR, "student.yaml"), student_config(cfg).dump())
        write_json(os.path.join(cfg.OUTPUT_DIR, ENVIRONMENT), environment(cfg.MODEL.DEVICE))

    def after_train(self) -> None:
        trainer = self.trainer
        path = os.path.join(trainer.cfg.OUTPUT_DIR, "summary.json")
        resumed_at_the_end = trainer.start_iter >= trainer.max_iter and os.path.exists(path)
        # A run that stopped early has no results, and one that was finished before keeps its own.
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
            "classes": list(_class_names(trainer.cfg)),
            "results": _json_values(getattr(trainer, "_last_eval_results", {})),
        }
        best = next((hook.best for hook in trainer._hooks if isinstance(hook, BestHook)), None)
        if best is not None:
            summary["best"] = best
        write_json(path, summary)


def _class_names(cfg: CfgNode) -> Sequence[str]:
    """Return the classes of the training data; none where these have no names."""
    names = cfg.DATASETS.TRAIN
    return MetadataCatalog.get(names[0]).get("thing_classes") or () if names else ()


def _json_values(results: dict) -> dict:
    """Replace NaN (no object of that size), which JSON does not have, by None."""
    return {
        key: _json_values(value) if isinstance(value, dict) else None if value != value else value
        for key, value in results.items()
    }
