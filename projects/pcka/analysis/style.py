"""What the figures have in common: 160 pixels per inch, on white, no global state of pyplot."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, GREY = "#222222", "#666666"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches."""
    figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def title_above(figure: Figure, title: str) -> None:
    """The title in the upper left corner."""
    width, height = figure.get_size_inches()
    size = min(13.0, 110 * width / max(len(title), 1))
    place = 0.15 / width, 1 - 0.12 / height
    figure.text(*place, title, size=size, weight="bold", color=INK, va="top")
