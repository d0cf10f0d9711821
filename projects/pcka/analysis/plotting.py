"""The looks of all figures: on white, in colours that the colour-blind can tell apart."""

from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

INK, GREY = "#222222", "#666666"
# The colours of Okabe and Ito that are seen well on white.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B8860B")


def new_figure(width: float, height: float, **options) -> Figure:
    """Make an empty figure of so many inches, 160 pixels each, without pyplot's global state."""
    figure = _PlainTextFigure(figsize=(width, height), dpi=160, facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


class _PlainTextFigure(Figure):
    """A figure in which ``$`` is a character: names of runs and classes are no formulas."""

    def draw(self, renderer: RendererBase) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().draw(renderer)


def plain_axes(axes: Axes, *, grid: Literal["x", "y"] = "y") -> None:
    """Draw no box, small grey ticks, and pale lines across ``grid``."""
    axes.tick_params(labelsize=8.5, colors=GREY, length=3)
    axes.grid(axis=grid, color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")


def fitting_size(text: str, width: float, size: float) -> float:
    """Return a font size at which a line of text is no wider than ``width`` inches, roughly."""
    return min(size, width * 72 / (0.56 * max(len(text), 1)))


def title_above(figure: Figure, title: str) -> None:
    """Write the title into the upper left corner."""
    width, height = figure.get_size_inches()
    size = min(13.0, 110 * width / max(len(title), 1))
    place = 0.15 / width, 1 - 0.12 / height
    figure.text(*place, title, size=size, weight="bold", color=INK, va="top")
