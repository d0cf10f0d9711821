"""Pictures of detections beside the truth, and of CKA over training.

Every figure is 1,600 pixels wide at its own resolution (``figure.savefig(path)``), on white, in
colours that the colour-blind can tell apart; pyplot's global state is not touched.

Letters: H, W image size in pixels; n boxes of one image; I points of a curve.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.typing import LineStyleType

from pcka.analysis.plotting import GREY, INK, fitting_size, new_figure
from pcka.experiments.pages.curves import Curve, draw_curves

from .matching import Panel, above_threshold, match


class Look(NamedTuple):
    """The look of boxes of one kind, and their text in the legend."""

    color: str
    style: LineStyleType
    text: str


# The look by verdict. Dashes can be told apart on a grey print.
VERDICTS = {
    "right": Look("#009E73", "-", "right: IoU ≥ 0.5 and the class"),
    "wrong": Look("#D55E00", "-", "wrong: class or place, or found twice"),
    "missed": Look("#FFB000", (0, (3, 1.5)), "missed: nothing found there"),
}
# The colours of classes: none of them looks like a verdict.
_CLASS_COLORS = (
    "#1F77D0",
    "#F5B8DC",
    "#9BE3F5",
    "#AA3377",
    "#FFFFFF",
    "#6A51E0",
    "#E6DC96",
    "#00B7C7",
    "#8C6D5A",
    "#B39DDB",
)

# Inches, of 160 pixels each. _CELL: the largest side of an image.
_WIDTH = 10.0
_MARGIN, _GAP, _CELL = 0.35, 0.08, 3.0
_TITLE, _LEGEND, _HEADER, _CURVES = 0.36, 0.27, 0.25, 2.1


def comparison_figure(
    images: Sequence[np.ndarray],
    panels: Mapping[str, Sequence[Panel]],
    class_names: Sequence[str],
    curves: Mapping[str, Curve] | None = None,
    title: str = "",
    *,
    truth: str | None = None,
    score_threshold: float = 0.5,
) -> Figure:
    """Draw one row per image and one column per panel, and the curves below.

    Args:
        images: each ``(H, W, 3)``, uint8, RGB.
        panels: the boxes of each image, by label.
        class_names: names by class index.
        curves: the CKA of each level by label: iterations ``(I,)`` and values ``(I,)``.
        title: a line above everything.
        truth: the label of the panel that holds the ground truth. The other panels then show
            what is right, wrong or missed (see ``match``), with counts.
        score_threshold: detections below it are not drawn and not counted.

    Returns:
        The figure. Its axes are those of the images, row by row, and last those of the curves.

    Raises:
        ValueError: panels that do not fit the images, or a ``truth`` that is no panel.
    """
    for label, panel in panels.items():
        if len(panel) != len(images):
            raise ValueError(f"panel {label!r} has {len(panel)} images instead of {len(images)}")
    if truth is not None and truth not in panels:
        raise ValueError(f"truth is {truth!r}, but the panels are {list(panels)}")
    panels = {
        k: [above_threshold(p, score_threshold) for p in panel] for k, panel in panels.items()
    }

    span = _WIDTH - 2 * _MARGIN  # the width of all columns
    cell = min(_CELL, (span - _GAP * (len(panels) - 1)) / len(panels))
    span = cell * len(panels) + _GAP * (len(panels) - 1)
    heights = [min(_CELL, cell * image.shape[0] / image.shape[1]) for image in images]
    down = _MARGIN / 2 + (_TITLE if title else 0) + (_LEGEND if truth else 0)
    headers = {
        k: _header(k, panel, panels.get(truth) if truth else None) for k, panel in panels.items()
    }
    down += _HEADER * (2 if truth else 1)
    total = down + sum(heights) + _GAP * (len(images) - 1)
    total += 0.25 + _CURVES + 0.55 if curves else _MARGIN
    figure = new_figure(_WIDTH, total)

    def at(x: float, y: float) -> tuple[float, float]:
        """Return figure coordinates of inches from the left end of the columns and from the top."""
        return ((_WIDTH - span) / 2 + x) / _WIDTH, 1 - y / total

    if title:
        size = fitting_size(title, span, 14)
        figure.text(*at(0, _MARGIN / 2), title, size=size, weight="bold", color=INK, va="top")
    if truth:
        _verdict_legend(figure, at(0, _MARGIN / 2 + (_TITLE if title else 0)))
    size = min(fitting_size(text, cell, 10) for header in headers.values() for text in header)
    for column, label in enumerate(panels):
        for line, text in enumerate(reversed(headers[label])):
            place = at(column * (cell + _GAP), down - 0.07 - 0.19 * line)
            is_label = text == label
            figure.text(*place, text, size=size, color=INK if is_label else GREY, va="bottom")
    for row, (image, height) in enumerate(zip(images, heights, strict=True)):
        for column, (label, panel) in enumerate(panels.items()):
            corner = at(column * (cell + _GAP), down + height)
            axes = figure.add_axes((*corner, cell / _WIDTH, height / total))
            axes.imshow(image, interpolation="nearest")
            axes.set_axis_off()
            facts = panels[truth][row] if truth and label != truth else None
            _draw_panel(axes, panel[row], class_names, facts)
        down += height + _GAP
    if curves:
        corner = at(0.4, down - _GAP + 0.25 + _CURVES)
        axes = figure.add_axes((*corner, (span - 1.5) / _WIDTH, _CURVES / total))
        draw_curves(axes, curves, x_label="iteration", y_label="CKA to the teacher")
    return figure


def _header(label: str, panel: Sequence[Panel], reference: Sequence[Panel] | None) -> list[str]:
    """Return the lines above a column: its label and, with a truth, counts over all images."""
    if reference is None:
        return [label]
    if panel is reference:
        return [label, f"{sum(len(p['boxes']) for p in panel)} objects"]
    pairs = [match(p, r) for p, r in zip(panel, reference, strict=True)]
    right = sum(int(r.sum()) for r, _ in pairs)
    wrong = sum(len(r) for r, _ in pairs) - right
    missed = sum(int(m.sum()) for _, m in pairs)
    return [label, f"{right} right, {wrong} wrong, {missed} missed"]


def _draw_panel(axes: Axes, panel: Panel, names: Sequence[str], reference: Panel | None) -> None:
    """Draw the boxes of one image, coloured by class or, given a reference, by verdict."""
    verdicts = match(panel, reference) if reference else None
    for i, (box, label) in enumerate(zip(panel["boxes"], panel["classes"], strict=True)):
        look = Look(_CLASS_COLORS[label % len(_CLASS_COLORS)], "-", "")
        if verdicts:
            look = VERDICTS["right" if verdicts[0][i] else "wrong"]
        text = names[label]
        if panel["scores"] is not None:
            text += f" {100 * panel['scores'][i]:.0f}%"
        _draw_box(axes, box, look, text)
    if reference and verdicts:
        for box in reference["boxes"][verdicts[1]]:
            _draw_box(axes, box, VERDICTS["missed"])


def _draw_box(axes: Axes, box: np.ndarray, look: Look, text: str = "") -> None:
    """Draw one box, ``(4,)`` xyxy; its text stands above it, or below if there is no room."""
    x0, y0, x1, y1 = box - 0.5  # imshow puts the centre, not the corner, of the first pixel at 0
    for outline in (True, False):  # a dark outline below the colour, to be seen on any image
        axes.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                fill=False,
                linestyle=look.style,
                edgecolor="black" if outline else look.color,
                alpha=0.5 if outline else 1,
                linewidth=2.6 if outline else 1.4,
            )
        )
    if text:
        bottom, top = axes.get_ylim()
        pixel = axes.get_position().height * _figure_height(axes) * 72 / (bottom - top)
        taken = [t.xy for t in axes.texts if isinstance(t, Annotation)]

        def is_free(y: float) -> bool:
            return not any(abs(x0 - u) * pixel < 25 and abs(y - v) * pixel < 8 for u, v in taken)

        below = (bottom - y1) * pixel > 9 and is_free(y1)
        above = (y0 - top) * pixel > 9 and (is_free(y0) or not below)
        axes.annotate(
            text,
            (x0, y0 if above else y1),
            (1, 2.5 if above else -2.5),
            textcoords="offset points",
            va="baseline" if above else "top",
            size=7,
            color="white",
            annotation_clip=True,
            path_effects=[withStroke(linewidth=2, foreground="black", alpha=0.8)],
        )


def _figure_height(axes: Axes) -> float:
    figure = axes.get_figure(root=True)
    assert figure is not None  # axes are made by one
    return figure.get_figheight()


def _verdict_legend(figure: Figure, place: tuple[float, float]) -> None:
    """Write one line that explains the colours of the boxes, from its upper left corner."""
    figure.legend(
        handles=[
            Line2D([], [], color=look.color, linestyle=look.style, linewidth=2, label=look.text)
            for look in VERDICTS.values()
        ],
        loc="upper left",
        bbox_to_anchor=place,
        ncols=len(VERDICTS),
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        borderpad=0,
        borderaxespad=0,
        handlelength=2.0,
        columnspacing=1.6,
    )
