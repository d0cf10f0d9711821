"""Accuracy over the epochs, and where it ends, by method and seed."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Curve = tuple[Sequence[int], Sequence[float]]

# Colours that the colour-blind can tell apart (Okabe and Ito).
_COLORS = ("#666666", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B8860B")
_INK, _GREY = "#222222", "#666666"


def accuracy_figure(
    curves: Mapping[str, Sequence[Curve]], *, teacher: float, title: str = ""
) -> Figure:
    """Left the accuracy over epochs, right the last one; 1,600 pixels wide.

    Args:
        curves: label -> per seed epochs and top-1 in percent. On the left a thin line per seed and
            a thick one for their mean; on the right a bar at the mean and a dot per seed.
        teacher: top-1 of the teacher, a dashed line.
        title: above both.

    Raises:
        ValueError: a label whose seeds were evaluated after different epochs.
    """
    figure = Figure(figsize=(10, 4), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", size=13, weight="bold", color=_INK)
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
    left.set_xlabel("epoch", size=9.5, color=_INK)
    left.set_ylabel("top-1 (%)", size=9.5, color=_INK)
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set_title("after the last epoch", loc="left", size=9.5, color=_INK)
    right.set_xticks(range(len(curves)), curves)
    right.set_xlim(-0.6, len(curves) - 0.4)
    left.axhline(teacher, color=_INK, linewidth=1, linestyle="--", label="teacher")
    right.axhline(teacher, color=_INK, linewidth=1, linestyle="--")
    left.legend(frameon=False, fontsize=9, labelcolor=_INK)
    for axes in (left, right):
        _plain(axes)
    return figure


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=8.5, colors=_GREY, length=3)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
