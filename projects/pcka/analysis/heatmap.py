"""A labelled matrix of similarities."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .plotting import INK, new_figure, title_above

_WIDTH = 10.0  # inches, at most
_CELL = 0.62  # the largest side of a cell
_BAR = 1.4  # what the colour bar takes
_COLORS = "cividis"  # made for the colour-blind; its lightness rises evenly


def heatmap_figure(
    values,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    *,
    row_label: str = "student",
    column_label: str = "teacher",
) -> Figure:
    """Draw similarities in [0, 1], with the numbers in the cells where they fit.

    Args:
        values: ``(R, C)``, array or tensor. NaN is left blank; debiased CKA below 0 has the colour
            of 0.
        rows, columns: their names, R and C.
        title: a line above the matrix.
        row_label, column_label: labels of the two axes.

    Returns:
        The figure. Its first axes hold the matrix, the second the colour bar.

    Raises:
        ValueError: names that do not fit the values.
    """
    values = np.asarray(values, float)
    if values.shape != (len(rows), len(columns)) or not values.size:
        raise ValueError(
            f"values are {values.shape}, but there are {len(rows)} rows and {len(columns)} columns"
        )
    # Inches that names take at 9 points, roughly.
    left, below = (0.07 * max(map(len, names)) + 0.5 for names in (rows, columns))
    cell = min(_CELL, (_WIDTH - left - _BAR) / len(columns))
    width, height = left + cell * len(columns) + _BAR, cell * len(rows) + below + 0.6
    figure = new_figure(width, height)
    title_above(figure, title)

    def place(x: float, across: float) -> Axes:
        tall = cell * len(rows)
        return figure.add_axes((x / width, below / height, across / width, tall / height))

    axes = place(left, cell * len(columns))
    image = axes.imshow(values, cmap=_COLORS, vmin=0, vmax=1, aspect="auto")
    # Names that would run into each other are left out.
    step = max(1, math.ceil(0.1 / cell))
    style: dict[str, Any] = {"size": min(9.0, 52 * cell * step), "color": INK}
    axes.set_xticks(range(0, len(columns), step), columns[::step], rotation=90, **style)
    axes.set_yticks(range(0, len(rows), step), rows[::step], **style)
    axes.set_xlabel(column_label, size=10, color=INK)
    axes.set_ylabel(row_label, size=10, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if cell >= 0.26:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                axes.text(
                    j,
                    i,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    size=min(8.5, 24 * cell),
                    color=_text_color(value),
                )
    bar = place(left + cell * len(columns) + 0.2, 0.16)
    figure.colorbar(image, cax=bar).outline.set_visible(False)
    bar.set_ylabel("CKA", size=10, color=INK)
    bar.tick_params(labelsize=8.5, length=2)
    return figure


def _text_color(value: float) -> str:
    """Return black or white, whichever is easier to read on the cell."""
    red, green, blue, _ = colormaps[_COLORS](value)
    return "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "white"
