"""Figures of Gram matrices between the patches of one image, as PatchCKA compares them.

Letters: (h, w) image in pixels, (H, W) map of C channels, (U, V) grid of patches, N = U V.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pcka.core import cka
from pcka.core.patches import PatchOptions, grid_shape, to_patches

from .grams import draw_grams, label, normalized_gram
from .plotting import INK, new_figure, title_above

_WIDTH, _GAP = 10.0, 0.34  # inches


def gram_figure(
    image: np.ndarray,
    maps: Mapping[str, Tensor],
    *,
    stride: float,
    options: PatchOptions,
    channel: int | None = None,
    title: str = "",
) -> Figure:
    """Draw the image with its patches numbered, and each network's Gram matrix between them.

    Args:
        image: ``(h, w, 3)`` uint8, RGB.
        maps: the map ``(C, H, W)`` of that image by network, the teacher first; all of one height
            and width.
        stride: pixels of ``image`` per cell of the maps; beyond the image lies padding.
        options: the options of :func:`pcka.core.patch_cka`; ``inter`` and ``gather`` are not used.
        channel: the group whose matrix is shown, with grouping ``channel`` a channel. None shows
            the mean of the normalised matrices, with the mean CKA.
        title: a line above everything.

    Returns:
        The figure. Its axes are the image, the matrices in the order of ``maps``, and the bar of
        colours. Below a matrix stands its CKA to the first one, over the patches (*intra*), unless
        they differ in the number of groups.

    Raises:
        ValueError: maps of different sizes, too few patches, no such channel.
    """
    sizes = {tuple(m.shape[1:]) for m in maps.values()}
    if len(sizes) != 1:
        raise ValueError(f"the maps are of different sizes: {sorted(sizes)}")
    height, width = sizes.pop()
    options.check_map(height, width)
    patches = {name: to_patches(m[None].detach(), options) for name, m in maps.items()}
    groups = min(len(p) for p in patches.values())
    if channel is not None and not 0 <= channel < groups:
        raise ValueError(f"there is no channel {channel}: they are 0 to {groups - 1}")
    shown = slice(None) if channel is None else slice(channel, channel + 1)

    columns = len(maps) + 1
    cell = (_WIDTH - 1.1 - _GAP * columns) / columns
    total = cell + 1.0
    figure = new_figure(_WIDTH, total)
    title_above(figure, title)

    def place(column: int, share: float = 1.0) -> Axes:
        x = 0.2 + column * (cell + _GAP)
        return figure.add_axes((x / _WIDTH, 0.45 / total, share * cell / _WIDTH, cell / total))

    picture = place(0)
    extent = height * stride, width * stride
    _draw_patches(picture, image, extent, _edges(extent, height, width, options, stride))
    label(picture, "patches", None)
    axes = [place(column) for column in range(1, columns)]
    grams = [normalized_gram(p[shown], center=options.center).mean(0) for p in patches.values()]
    draw_grams(axes, [gram.cpu().numpy() for gram in grams], place(columns, 0.07))
    teacher, *_ = patches.values()
    for where, (name, p) in zip(axes, patches.items(), strict=True):
        value = None
        if p is not teacher and len(p) == len(teacher):
            value = cka(p[shown], teacher[shown], center=options.center, debiased=options.debiased)
        label(where, name, None if value is None else value.mean().item())
        for axis in (where.xaxis, where.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def _edges(
    extent: tuple[float, float], height: int, width: int, options: PatchOptions, stride: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return where patches begin and end, in pixels: ``(U + 1,)`` down and ``(V + 1,)`` across."""
    (u, v), (p, q) = grid_shape(height, width, options.patch_shape), options.patch_shape
    if options.resize == "pad":
        extent = u * p * stride, v * q * stride
    return np.linspace(0, extent[0], u + 1), np.linspace(0, extent[1], v + 1)


def _draw_patches(
    axes: Axes,
    image: np.ndarray,
    extent: tuple[float, float],
    edges: tuple[np.ndarray, np.ndarray],
) -> None:
    """Draw the image, the padding around it in grey, and the numbered grid where it fits."""
    down, across = edges
    axes.set_facecolor("#DDDDDD")
    axes.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    axes.set_xlim(0, max(extent[1], across[-1]))
    axes.set_ylim(max(extent[0], down[-1]), 0)
    axes.set_anchor("N")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#BBBBBB")
    figure = axes.get_figure(root=True)
    assert figure is not None  # axes are made by one
    inches = axes.get_position().width * figure.get_figwidth()
    points = 72 * inches / max(axes.get_xlim()[1], axes.get_ylim()[0])  # per pixel
    rows, columns = len(down) - 1, len(across) - 1
    patch = points * min(down[1], across[1])
    # If patches are small, only the first of every row with room gets a number.
    fits = patch >= (9 if rows * columns < 100 else 12)
    lines: dict[str, Any] = {"colors": "white", "linewidth": 0.7 if fits else 0.3}
    if fits:  # so that lines are seen on a white image too
        lines["path_effects"] = [withStroke(linewidth=1.6, foreground="black", alpha=0.6)]
    axes.vlines(across, down[0], down[-1], **lines)
    axes.hlines(down, across[0], across[-1], **lines)
    step = 1 if fits else -(-8 // max(int(points * down[1]), 1))
    size = min(8.0, 0.55 * patch) if fits else 6.0
    for u in range(0, rows, step):
        for v in range(columns if fits else 1):
            axes.text(
                (across[v] + across[v + 1]) / 2 if fits else across[0] + 2 / points,
                (down[u] + down[u + 1]) / 2,
                str(u * columns + v),
                size=size,
                color="white",
                ha="center" if fits else "left",
                va="center",
                path_effects=[withStroke(linewidth=1.5, foreground=INK)],
            )
