"""Curves of the terms over training: CKA, share of the loss, and gradients.

Letters: I points of a curve.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcka.analysis.plotting import INK, LINE_COLORS, fitting_size, new_figure, plain_axes

Curve = tuple[np.ndarray, np.ndarray]  # (I,) iterations or epochs, rising, and (I,) values

# The panels by the first part of a scalar's name.
_TITLES = {
    "cka": "CKA to the teacher",
    "pearson": "Pearson correlation with the teacher",
    "share": "share of the total loss",
    "gradient": "gradient (1: that of the network's own losses)",
}
_COLORS = (*LINE_COLORS, "#333333")
_STYLES = ("-", "--", ":")
_WIDTH, _PANEL = 4.8, 2.0  # inches: narrow, so that a phone shows the letters large enough


def curves_figure(scalars: Mapping[str, Curve], *, x_label: str, title: str = "") -> Figure:
    """Draw one panel for each kind of scalar of a run, all over the same time.

    A term keeps its colour in all panels. Gradients are on a logarithmic scale.

    Args:
        scalars: the scalars of a run by full name: ``cka/pcka_p2``, ``share/pcka_p2``,
            ``gradient/pcka_p2``; others are left out.
        x_label: iteration or epoch.
        title: a line above the first panel.

    Raises:
        ValueError: no scalar of these kinds.
    """
    kinds = {kind: _of_kind(scalars, kind) for kind in _TITLES}
    kinds = {kind: curves for kind, curves in kinds.items() if curves}
    if not kinds:
        raise ValueError(f"no scalar of {', '.join(_TITLES)} among {', '.join(scalars) or 'none'}")
    names = short_names([key for curves in kinds.values() for key in curves])
    figure = new_figure(_WIDTH, _PANEL * len(kinds) + (0.35 if title else 0), layout="constrained")
    figure.suptitle(
        title, x=0.012, ha="left", weight="bold", color=INK, size=fitting_size(title, _WIDTH, 11)
    )
    panels = figure.subplots(len(kinds), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (kind, curves) in zip(panels, kinds.items(), strict=True):
        if kind == "gradient":
            axes.set_yscale("log")
        shown = {names[key]: curves[key] for key in names if key in curves}
        draw_curves(axes, shown, x_label=x_label, among=list(names.values()), apart=0.12)
        axes.set_title(_TITLES[kind], loc="left", size=9.5, color=INK)
        axes.label_outer()
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Shorten ``pcka_p2`` to ``p2`` if all keys belong to one term."""
    unique = dict.fromkeys(keys)
    terms = {key.rsplit("_", 1)[0] for key in unique}
    return {key: key.rsplit("_", 1)[-1] if len(terms) == 1 else key for key in unique}


def draw_curves(
    axes: Axes,
    curves: Mapping[str, Curve],
    *,
    x_label: str,
    y_label: str = "",
    among: Sequence[str] | None = None,
    apart: float = 0.085,
) -> None:
    """Draw lines over time, each named at its right end in its own colour.

    Args:
        among: all labels, in order, that share the colours; None takes those of ``curves``.
        apart: the least distance between two names, in heights of the axes.
    """
    among = list(curves) if among is None else among
    ends = []
    for label, (times, values) in curves.items():
        index = among.index(label)
        color = _COLORS[index % len(_COLORS)]
        style = _STYLES[index // len(_COLORS) % len(_STYLES)]
        marker = "o" if len(times) == 1 else None  # a line of one point is invisible
        axes.plot(times, values, color=color, linestyle=style, linewidth=1.8, marker=marker)
        finite = [value for value in values if np.isfinite(value)]
        if finite:
            ends.append((finite[-1], label, color))
    axes.margins(x=0, y=0.08)
    axes.set_xlabel(x_label, size=9.5, color=INK)
    axes.set_ylabel(y_label, size=9.5, color=INK)
    plain_axes(axes)

    # The names stand as close to their lines as possible without covering each other.
    ends.sort()
    step = min(apart, 1 / max(len(ends), 1))
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [to_axes.transform((0, value))[1] for value, _, _ in ends]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + step)
    ceiling = 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - step
    for (_, label, color), height in zip(ends, heights, strict=True):
        axes.annotate(
            label,
            (1, height),
            (5, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            size=fitting_size(label, 1.0, 9.5),
            color=color,
            va="center",
        )


def _of_kind(scalars: Mapping[str, Curve], kind: str) -> dict[str, Curve]:
    prefix = f"{kind}/"
    return {n.removeprefix(prefix): curve for n, curve in scalars.items() if n.startswith(prefix)}
