"""Accuracy over the epochs, and where it ends, by method and seed."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pcka.plotting import GREY, INK, LINE_COLORS, plain_axes

Curve = tuple[Sequence[int], Sequence[float]]

_COLORS = (GREY, *LINE_COLORS)


def accuracy_figure(
    curves: Mapping[str, Sequence[Curve]], *, teacher: float | None, title: str = ""
) -> Figure:
    """Left the accuracy over epochs, right the last one; 1,600 pixels wide.

    Args:
        curves: label -> per seed epochs and top-1 in percent. On the left a thin line per seed and
            a thick one for their mean; on the right a bar at the mean and a dot per seed.
        teacher: top-1 of the teacher, a dashed line; None if it is not known.
        title: above both.

    Raises:
        ValueError: a label whose seeds were evaluated after different epochs.
    """
    figure = Figure(figsize=(10, 4), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", size=13, weight="bold", color=INK)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for index, (label, seeds) in enumerate(curves.items()):
        if len({tuple(epochs) for epochs, _ in seeds}) != 1:
            raise ValueError(f"{label}: seeds that were evaluated after different epochs")
        color = _COLORS[index % len(_COLORS)]
        values = np.array([top1 for _, top1 in seeds])  # (seeds, epochs)
        epochs = seeds[0][0]
        if len(seeds) > 1:
            left.plot(epochs, values.T, color=color, linewidth=0.7, alpha=0.5)
        left.plot(epochs, values.mean(0), color=color, linewidth=2.2, marker="o", label=label)
        right.hlines(values[:, -1].mean(), index - 0.3, index + 0.3, color=color, linewidth=3)
        right.plot([index] * len(seeds), values[:, -1], "o", color=color, markersize=5, alpha=0.6)
    left.set_xlabel("epoch", size=9.5, color=INK)
    left.set_ylabel("top-1 (%)", size=9.5, color=INK)
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set_title("after the last epoch", loc="left", size=9.5, color=INK)
    right.set_xticks(range(len(curves)), curves)
    right.set_xlim(-0.6, len(curves) - 0.4)
    if teacher is not None:
        left.axhline(teacher, color=INK, linewidth=1, linestyle="--", label="teacher")
        right.axhline(teacher, color=INK, linewidth=1, linestyle="--")
    left.legend(frameon=False, fontsize=9, labelcolor=INK)
    for axes in (left, right):
        plain_axes(axes)
    return figure
