"""Train a teacher and several students over several seeds, and compare them.

Every run is a process with an output folder of its own; a finished run is not repeated, so an
interrupted comparison goes on where it stopped. The standard library, yaml and tqdm only: what the
runs are is the matter of a :class:`Task`, which detection and classification each have.
"""

from .report import collect, markdown_table, write_report
from .runs import Comparison, Run, load_comparison
from .task import Task
from .training import LOG, train_all

__all__ = [
    "LOG",
    "Comparison",
    "Run",
    "Task",
    "collect",
    "load_comparison",
    "markdown_table",
    "train_all",
    "write_report",
]
