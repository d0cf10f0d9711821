"""Drawing for detectors: the picture of a study, those of a run, and the sections of a page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .finished_run import draw_pictures
from .picture import study_picture
from .report import page_sections

__all__ = ["page_sections", "run_pictures", "study_picture"]


def run_pictures(
    folder: Path, *, image: int | None = None, **options: Any
) -> Iterator[tuple[str, Figure]]:
    """Draw what a finished student took over; see :func:`draw_pictures`."""
    return draw_pictures(folder, image=image or 0, **options)
