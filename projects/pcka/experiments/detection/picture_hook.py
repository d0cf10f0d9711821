"""Pictures of a training while it runs, for TensorBoard."""

from typing import cast

import numpy as np
from detectron2.engine import HookBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pcka.detection.engine.processes import unwrapped
from pcka.detection.engine.stream import random_state, set_random_state

from .finished_run import DetectionRun, figures

IMAGES = 4  # images over which layers are compared, while training waits


class PictureHook(HookBase):
    """Put the pictures of ``pcka pictures`` into the storage every ``period`` iterations.

    They leave the random state unchanged. Only the main process may have this hook.
    """

    def __init__(self, period: int):
        self.period = period

    def after_step(self) -> None:
        trainer = self.trainer
        if (trainer.iter + 1) % self.period:
            return
        model = unwrapped(trainer.model)
        run = DetectionRun(
            trainer.cfg, {"student": model.student}, model.teacher, {"student": model.distill}
        )
        state = random_state()
        try:
            for name, figure in figures(run, images=IMAGES):
                figure.canvas.draw()
                pixels = np.asarray(cast(FigureCanvasAgg, figure.canvas).buffer_rgba())[
                    ..., :3
                ]  # (H, W, 3)
                trainer.storage.put_image(f"pcka/{name}", pixels.transpose(2, 0, 1))
        finally:
            set_random_state(state)
