"""The figure of the differences of settings from their base, with intervals."""

import textwrap
from collections.abc import Mapping

from matplotlib.figure import Figure

from pcka.analysis.plotting import GREY, INK, LINE_COLORS, new_figure, plain_axes

from .estimates import PERCENT, estimate

# Inches. _LINE is the height of a line of a label; a setting takes the lines of its label, and more
# than half a line of space.
_WIDTH, _LINE, _FRAME = 10.0, 0.19, 1.35
_LABEL = 46  # characters in a line of a label


def difference_figure(
    differences: Mapping[str, Mapping[int, float]], *, base: str, metric: str, title: str = ""
) -> Figure:
    """Draw one line per setting, the first at the top; 1,600 pixels wide.

    A line has a dot per seed, a bar at their mean and, with two seeds or more, a line over the
    interval of the mean.

    Args:
        differences: the metric less that of the base by setting and seed; empty for a setting of
            which nothing is finished.
        base: the name of the base, which is 0.
    """
    labels = [textwrap.fill(name, _LABEL) for name in differences]
    heights = [label.count("\n") + 1.6 for label in labels]  # in lines
    figure = new_figure(_WIDTH, _FRAME + _LINE * sum(heights), layout="constrained")
    figure.suptitle(textwrap.fill(title, 90), x=0.012, ha="left", size=13, weight="bold", color=INK)
    axes = figure.subplots()
    places = [sum(heights[:i]) + height / 2 for i, height in enumerate(heights)]
    axes.axvline(0, color=INK, linewidth=1, linestyle="--")
    color = LINE_COLORS[0]
    for place, seeds in zip(places, differences.values(), strict=True):
        if not seeds:
            axes.annotate(
                "no pair of runs",
                (0, place),
                (6, 0),
                textcoords="offset points",
                va="center",
                size=8.5,
                color=GREY,
            )
            continue
        found = estimate(seeds.values())
        if found.interval:
            axes.plot(found.interval, (place, place), color=color, linewidth=2.2, zorder=2)
        axes.plot(
            list(seeds.values()),
            [place] * len(seeds),
            "o",
            color=GREY,
            markersize=4,
            alpha=0.6,
            zorder=3,
        )
        axes.plot(found.mean, place, "|", color=color, markersize=11, markeredgewidth=3, zorder=4)
    axes.set_yticks(places, labels)
    axes.set_ylim(sum(heights), 0)
    plain_axes(axes, grid="x")
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    axes.set_xlabel(
        f"difference to {base} in {metric}: mean with its {PERCENT} interval, and each seed",
        size=9.5,
        color=INK,
    )
    return figure
