"""Train a teacher and several students over several seeds, and compare them.

Every run is a process with an output folder of its own; a finished run is not repeated, so an
interrupted comparison goes on where it stopped. What the runs are is the matter of a
:class:`Task`, which detection and classification each have; neither is imported before it is named.
"""

from .flat import leaves
from .folders import is_comparison, read_comparison, read_run
from .report import collect, markdown_table, table_rows, write_report
from .runs import Comparison, Run, load_comparison
from .task import Task, task_of
from .training import LOG, train_all

__all__ = [
    "LOG",
    "Comparison",
    "Run",
    "Task",
    "collect",
    "is_comparison",
    "leaves",
    "load_comparison",
    "markdown_table",
    "read_comparison",
    "read_run",
    "table_rows",
    "task_of",
    "train_all",
    "write_report",
]
