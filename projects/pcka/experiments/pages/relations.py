"""The section of a page with the relations that a student took over."""

from collections.abc import Callable, Iterator, Mapping

from matplotlib.figure import Figure

from pcka.errors import ConfigError
from pcka.experiments.study.run import Run

from .html import Picture, Section


def relations_section(
    runs: Mapping[str, Run], draw: Callable[..., Iterator[tuple[str, Figure]]]
) -> Section:
    """Draw CKA between layers, and Gram matrices, of the last run that was taught.

    Args:
        runs: the runs by label. The first one without a teacher stands beside the distilled
            student; if there is none, its own initial weights do.
        draw: ``draw_pictures`` of the kind: (folder, ``alone``) -> names and figures.
    """
    title = "Relations"
    taught = {label: run for label, run in runs.items() if run.is_taught}
    alone = [run.output_dir for label, run in runs.items() if label not in taught][:1]
    if not taught:
        return Section(title, ["No run here was taught."])
    label, run = list(taught.items())[-1]
    try:
        figures = list(draw(run.output_dir, alone=alone[0] if alone else ""))
    except ConfigError as error:
        return Section(title, [f"They cannot be drawn: {error}"])
    text = [f"Of {label}: CKA between its layers and the teacher's, and what the terms compare."]
    pictures = [
        Picture(figure, f"{name.replace('_', ' ')}, of {label}", wide=True)
        for name, figure in figures
    ]
    return Section(title, text, pictures)
