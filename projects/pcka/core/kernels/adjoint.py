"""The kernel that writes the gradient of a map.

Shapes: B images, C channels, (H, W) map, (UH, UW) the map after resizing or padding.
"""

import triton
import triton.language as tl

from .cells import plane_start
from .launch import Kernel


@triton.jit
def _share(cell, place, size, resized, RESIZE: tl.constexpr):
    """Return the weight of cell ``place`` of a map in a cell of the resized map."""
    if RESIZE:
        position = tl.maximum((2 * cell + 1) * size - resized, 0)
        position = tl.minimum(position, (size - 1) * 2 * resized)
        distance = tl.abs(position - place * 2 * resized).to(tl.float32) / (2 * resized)
        weight = tl.where(cell < resized, tl.maximum(1.0 - distance, 0.0), 0.0)
    else:
        weight = 1.0
    return weight


@triton.jit
def _first(place, size, resized, RESIZE: tl.constexpr):
    """Return the first cell of the resized map in which cell ``place`` of a map has a share."""
    first = place
    if RESIZE:
        first = tl.maximum(((2 * place - 1) * resized - size) // (2 * size) + 1, 0)
    return first


@Kernel
def adjoint(
    gradient_ptr, factors_ptr, outer_ptr, out_ptr, factor, outer_step,
    C, H, W, UH, UW, y_shares, x_shares, sb: tl.int64, sc: tl.int64, sh, sw,
    BATCH: tl.constexpr, RESIZE_Y: tl.constexpr, RESIZE_X: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a map from that of its resized cells ``(B, C, UH, UW)``.

    There is one program per plane and tile. A cell adds up the gradients of the at most
    ``y_shares`` by ``x_shares`` resized cells that it had a share in; a padded map is cropped. The
    sum is multiplied by the factor of the group, by that of the call, and by the incoming gradient
    before it is cast to the map's type.
    """
    plane = tl.program_id(0)
    b, c = plane // C, plane % C
    group = c
    if BATCH:
        group = b
    step = sw
    if UNIT:
        step = 1
    if WIDE:  # rows of both maps are multiples of 8 cells
        W, UW, sh = W // 8 * 8, UW // 8 * 8, sh // 8 * 8
    y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    x = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (y < H) & (x < W)
    gradient = gradient_ptr + plane.to(tl.int64) * UH * UW
    first_y, first_x = _first(y, H, UH, RESIZE_Y), _first(x, W, UW, RESIZE_X)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for i in range(y_shares):
        row = first_y + i
        weight = _share(row, y, H, UH, RESIZE_Y)
        line, mask = gradient + row * UW, inside & (row < UH)
        if RESIZE_X:
            for j in range(x_shares):
                column = first_x + j
                cells = tl.load(line + column, mask & (column < UW), 0.0).to(tl.float32)
                total += weight * _share(column, x, W, UW, RESIZE_X) * cells
        else:
            total += weight * tl.load(line + x, mask, 0.0).to(tl.float32)
    rate = tl.load(factors_ptr + group) * tl.load(outer_ptr + group * outer_step) * factor
    out = plane_start(out_ptr, b, c, sb, sc, WIDE) + y * sh + x * step
    tl.store(out, (total * rate).to(out_ptr.dtype.element_ty), inside)
