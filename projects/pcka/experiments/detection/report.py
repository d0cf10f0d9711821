"""The sections of a page about detectors: CKA and gradients in training, and detections."""

from collections.abc import Mapping, Sequence

from pcka.errors import ConfigError
from pcka.experiments.pages.html import Picture, Section
from pcka.experiments.pages.relations import relations_section
from pcka.experiments.pages.training import training_section
from pcka.experiments.study.run import Run

from .finished_run import draw_pictures
from .matching import above_threshold, match
from .metrics import read_scalars
from .picture import (
    Evaluated,
    detections,
    draw_detections,
    evaluated,
    most_different,
    teacher_detections,
    truth,
)

_THRESHOLD = 0.5


def page_sections(
    students: Mapping[str, Sequence[Run]], teacher: Run | None, *, images: int
) -> list[Section]:
    """Draw finished runs as sections of a page.

    A picture that cannot be drawn is replaced by the reason.

    Args:
        students: runs by label, one per seed; pictures of single images show the first.
        teacher: the run of the teacher; None if there is none.
        images: how many images such pictures show.
    """
    firsts = {label: runs[0] for label, runs in students.items()}
    paths = {label: run.output_dir / "metrics.json" for label, run in firsts.items()}
    scalars = {label: read_scalars(p, "") if p.is_file() else {} for label, p in paths.items()}
    training = training_section(
        scalars,
        x_label="iteration",
        own="the detector's own losses",
        option="MODEL.PCKA.GRADIENT_PERIOD",
    )
    relations = relations_section(firsts, draw_pictures)
    return [training, relations, detections_section(firsts, teacher, images)]


def detections_section(runs: Mapping[str, Run], teacher: Run | None, images: int) -> Section:
    """Draw detections of the first and the last run, and of the teacher, beside the truth.

    The images on which the two runs differ most come first (``matching.difference``). A single run
    is compared with the truth, and the images with most mistakes come first.
    """
    labels = list(runs)
    shown = list(dict.fromkeys([labels[0], labels[-1]]))
    title = "Detections"
    try:
        data = evaluated(runs[labels[0]].config)
        panels = {label: detections(runs[label], data) for label in shown}
    except ConfigError as error:
        return Section(title, [str(error)])
    truths = [truth(record) for record in data.records]
    others = panels[shown[-1]] if len(shown) > 1 else truths
    order = most_different(panels[shown[0]], others, truths, score_threshold=_THRESHOLD)[:images]
    chosen = data._replace(records=[data.records[i] for i in order])
    panels_shown = {label: [panel[i] for i in order] for label, panel in panels.items()}
    text = [_choice(shown, len(order), len(truths)), _totals(panels, truths)]
    if "teacher" not in shown:
        try:
            panels_shown["teacher"] = _teacher_panels(runs, teacher, chosen)
        except ConfigError as error:
            text.append(f"The teacher is not shown: {error}")
    figure = draw_detections(chosen, panels_shown, score_threshold=_THRESHOLD)
    columns = ", ".join(panels_shown)
    picture = Picture(
        figure, f"Boxes on {len(order)} images, side by side: ground truth, {columns}", wide=True
    )
    return Section(title, text, [picture])


def _teacher_panels(runs: Mapping[str, Run], teacher: Run | None, data: Evaluated) -> list:
    """Return the detections of the teacher's own run, else compute them by the configs' teacher."""
    if teacher is not None:
        return detections(teacher, data)
    taught = [run for run in runs.values() if run.is_taught]
    if not taught:
        raise ConfigError("no run here was taught.")
    return teacher_detections(taught[0].config, data)


def _choice(shown: Sequence[str], number: int, total: int) -> str:
    if len(shown) == 1:
        rule = f"on which {shown[0]} makes most mistakes"
    else:
        rule = (
            f"on which {shown[0]} and {shown[-1]} differ most, whichever is better: objects that "
            "only one of them gets right, plus the difference of their wrong detections"
        )
    return (
        f"The {number} of {total} images {rule}. They are no fair sample. Right is an IoU of 0.5 "
        f"or more and the class; scores from {100 * _THRESHOLD:.0f}% on."
    )


def _totals(panels: Mapping[str, Sequence], truths: Sequence) -> str:
    """Return right, wrong and missed over all images, because the shown ones are no fair sample."""
    parts = []
    for label, images in panels.items():
        pairs = [
            match(above_threshold(panel, _THRESHOLD), reference)
            for panel, reference in zip(images, truths, strict=True)
        ]
        right = sum(int(found.sum()) for found, _ in pairs)
        wrong = sum(len(found) for found, _ in pairs) - right
        missed = sum(int(lost.sum()) for _, lost in pairs)
        parts.append(f"{label} {right} right, {wrong} wrong, {missed} missed")
    return f"Over all {len(truths)} images: {'; '.join(parts)}."
