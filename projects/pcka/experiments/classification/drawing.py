"""Drawing for classifiers: the picture of a study, those of a run, and the sections of a page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pcka.classification.records import accuracy_curve
from pcka.errors import ConfigError
from pcka.experiments.study.study import Study

from .figures import accuracy_figure
from .finished_run import draw_pictures
from .report import page_sections

__all__ = ["page_sections", "run_pictures", "study_picture"]


def study_picture(study: Study) -> Figure:
    """Draw the accuracy over the epochs."""
    curves = {
        label: [accuracy_curve(run.output_dir) for run in study.students[label]]
        for label in study.picture["STUDENTS"]
    }
    teacher = study.teacher.results["top-1"] if study.teacher else None
    return accuracy_figure(curves, teacher=teacher, title=study.title)


def run_pictures(
    folder: Path, *, image: int | None = None, **options: Any
) -> Iterator[tuple[str, Figure]]:
    """Draw what a finished student took over; see :func:`draw_pictures`.

    Raises:
        ConfigError: ``image`` is given, which only detectors have.
    """
    if image is not None:
        raise ConfigError(
            f"--image is for a detector, and {folder} is the run of a classifier, whose Gram "
            "matrices are those of a batch: leave it out"
        )
    return draw_pictures(folder, **options)
