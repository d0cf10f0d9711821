"""The student of the best evaluation, kept beside that of the last iteration."""

import logging
import os
from typing import Any

from detectron2.engine import HookBase

from pcka.detection.checks.run_folder import BEST_WEIGHTS
from pcka.detection.data.coco_values import is_number
from pcka.detection.modeling.distilled_detector import DistilledDetector
from pcka.errors import ConfigError
from pcka.files import read_json, save_tensors, write_json

from .checkpointer import on_cpu
from .processes import unwrapped

RECORD = "best.json"
logger = logging.getLogger(__name__)


class BestHook(HookBase):
    """Writes ``model_best.pth``, the plain student's weights, whenever box AP is the best so far.

    ``best.json`` lists all evaluations. A resumed run forgets those after its checkpoint, which it
    makes again. The hook is for the process that writes, and comes after the hook that evaluates.
    The images are those of ``DATASETS.TEST[0]``: name a validation set there that is not the test
    set whose AP is reported.
    """

    def __init__(self) -> None:
        self.evaluations: list[dict[str, float]] = []

    @property
    def best(self) -> dict[str, float] | None:
        """The best evaluation, ``{"iteration": ..., "AP": ...}``; the first of equal ones."""
        return max(self.evaluations, key=lambda e: e["AP"], default=None)

    def before_train(self) -> None:
        start = self.trainer.start_iter
        known = (read_json(self._path(RECORD)) if start > 0 else None) or []
        if not isinstance(known, list) or not all(map(_is_evaluation, known)):
            raise ConfigError(f"{self._path(RECORD)} is no list of evaluations: remove it")
        self.evaluations = [e for e in known if e["iteration"] <= start]

    def after_step(self) -> None:
        period, done = self.trainer.cfg.TEST.EVAL_PERIOD, self.trainer.iter + 1
        if period > 0 and done % period == 0 and done != self.trainer.max_iter:
            self._look(done)

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter > self.trainer.start_iter:
            self._look(self.trainer.max_iter)

    def _look(self, iteration: int) -> None:
        """Take up the results of the evaluation that was just made."""
        ap = box_ap(getattr(self.trainer, "_last_eval_results", {}))
        if ap is None:
            return
        best = self.best
        self.evaluations.append({"iteration": iteration, "AP": ap})
        if best is None or ap > best["AP"]:
            model = unwrapped(self.trainer.model)
            student = model.student if isinstance(model, DistilledDetector) else model
            save_tensors(self._path(BEST_WEIGHTS), on_cpu({"model": student.state_dict()}))
            logger.info(f"box AP {ap:.2f} is the best so far: {BEST_WEIGHTS}")
        write_json(self._path(RECORD), self.evaluations)

    def _path(self, name: str) -> str:
        return os.path.join(self.trainer.cfg.OUTPUT_DIR, name)


def _is_evaluation(entry: Any) -> bool:
    return isinstance(entry, dict) and all(is_number(entry.get(k)) for k in ("iteration", "AP"))


def box_ap(results: dict[str, Any]) -> float | None:
    """Return the box AP in detectron2's results, of the first data set; None without boxes."""
    if results and "bbox" not in results:
        results = next((r for r in results.values() if isinstance(r, dict) and "bbox" in r), {})
    ap = results.get("bbox", {}).get("AP")
    return float(ap) if ap is not None and ap == ap else None
