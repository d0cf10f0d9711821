"""tools/train_net.py under torchrun, where process 1 dies before its fifth step."""

import os
import runpy
import signal
from pathlib import Path

from detectron2.utils import comm

from pcka.detection import Trainer

step = Trainer.run_step


def run_step(self):
    if self.iter == 4 and comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self)


Trainer.run_step = run_step
runpy.run_path(str(Path(__file__).parents[2] / "tools" / "train_net.py"), run_name="__main__")
