"""Inks and axes that the figures of both sides share."""

from matplotlib.axes import Axes

INK, GREY = "#222222", "#666666"
# Colours that the colour-blind can tell apart (Okabe and Ito), for lines on white.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B8860B")


def plain_axes(axes: Axes, *, grid: str = "y") -> None:
    """No box, small grey ticks, and pale lines across ``grid``: "x" or "y"."""
    axes.tick_params(labelsize=8.5, colors=GREY, length=3)
    axes.grid(axis=grid, color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
