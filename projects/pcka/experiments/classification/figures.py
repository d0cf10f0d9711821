"""Figures of accuracy over the epochs by method and seed, and of images with predictions."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pcka.analysis.plotting import GREY, INK, LINE_COLORS, fitting_size, new_figure, plain_axes

Curve = tuple[Sequence[int], Sequence[float]]

_COLORS = (GREY, *LINE_COLORS)


def accuracy_figure(
    curves: Mapping[str, Sequence[Curve]], *, teacher: float | None, title: str = ""
) -> Figure:
    """Draw the accuracy over epochs on the left and the last one on the right; 1,600 pixels wide.

    Args:
        curves: by label and seed, epochs and top-1 in percent. On the left is a thin line per seed
            and a thick one for their mean; on the right a bar at the mean and a dot per seed.
        teacher: top-1 of the teacher, a dashed line; None if it is not known.
        title: a line above both.

    Raises:
        ValueError: a label whose seeds were evaluated after different epochs.
    """
    figure = new_figure(10, 4, layout="constrained")
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


def predictions_figure(
    images: np.ndarray, truth: Sequence[str], predicted: Mapping[str, Sequence[str]]
) -> Figure:
    """Draw images in rows of three; below each its class and every classifier's prediction.

    Args:
        images: ``(n, H, W, 3)``, in [0, 1].
        truth: n names of classes.
        predicted: n names of classes by label; right ones are green, wrong ones vermilion.
    """
    columns, cell, line = 3, 1.5, 0.17  # inches
    rows = -(-len(images) // columns)
    lines = 1 + len(predicted)
    height = rows * (cell + line * (lines + 0.8))
    figure = new_figure(columns * (cell + 0.12), height)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(
        left=0.02,
        right=0.98,
        top=1 - 0.05 / height,
        bottom=line * (lines + 0.6) / height,
        wspace=0.06,
        hspace=line * (lines + 0.8) / cell,
    )
    for axes in grid:
        axes.set_axis_off()
    for index, (axes, image) in enumerate(zip(grid, images, strict=False)):
        axes.imshow(image, interpolation="nearest")
        texts = [(f"is: {truth[index]}", INK)]
        for label, names in predicted.items():
            right = names[index] == truth[index]
            texts.append((f"{label}: {names[index]}", "#00795A" if right else "#C04E00"))
        for number, (text, color) in enumerate(texts):
            axes.annotate(
                text,
                (0, 0),
                (0, -72 * line * (number + 0.15)),
                xycoords="axes fraction",
                textcoords="offset points",
                va="top",
                color=color,
                size=fitting_size(text, cell, 9),
                weight="bold" if number == 0 else "normal",
            )
    return figure
