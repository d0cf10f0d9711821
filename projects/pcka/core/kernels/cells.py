"""Kernels that read maps: means and peaks, and cutting into patches.

Shapes: B images, C channels, (H, W) map, (P, Q) patch, (UH, UW) = (U P, V Q) the map after
resizing or padding, N = U V patches, D features of a patch. A *plane* is one channel of one image.
With the grouping ``channel`` the planes of one channel are a group, with ``batch`` those of one
image. A matrix ``(N, D)`` is a plane whose patches are its rows: P = 1, Q = W = D, V = 1.
"""

import triton
import triton.language as tl

from .launch import Kernel


@triton.jit
def _place(cell, size, resized):
    """Return the two cells of a map that make a resized cell, and the weight of the second."""
    # Computed in integers, because a position far from 0 loses digits of the weight in float32.
    step = 2 * resized
    position = tl.maximum((2 * cell + 1) * size - resized, 0)
    # A division of integers is slow, so divide floats and correct the rounding.
    first = (position.to(tl.float32) / step).to(tl.int32)
    rest = position - first * step
    first += tl.where(rest < 0, -1, tl.where(rest >= step, 1, 0))
    weight = (position - first * step).to(tl.float32) / step
    return first, tl.minimum(first + 1, size - 1), weight


@triton.jit
def _load_rows(rows, x, mask, W, UW, stride, RESIZE: tl.constexpr, UNIT: tl.constexpr):
    """Load cells ``x`` of rows, resized along x, in float32."""
    step = stride
    if UNIT:
        step = 1
    if RESIZE:
        first, second, weight = _place(x, W, UW)
        cells = tl.load(rows + first * step, mask, 0.0).to(tl.float32)
        cells += (tl.load(rows + second * step, mask, 0.0).to(tl.float32) - cells) * weight
    else:
        cells = tl.load(rows + x * step, mask, 0.0).to(tl.float32)
    return cells


@triton.jit
def _load_cells(
    plane, y, x, mask, H, W, UH, UW, sh, sw,
    RESIZE_Y: tl.constexpr, RESIZE_X: tl.constexpr, PAD: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Load cells ``(y, x)`` of the resized or padded plane, in float32."""
    if PAD:
        mask = mask & (y < H) & (x < W)
    first, second, weight = y, y, 0.0
    if RESIZE_Y:
        first, second, weight = _place(y, H, UH)
    if WIDE:  # rows start at multiples of 8 cells: tell the compiler, for wide loads
        top = plane + first * (sh // 8) * 8
        bottom = plane + second * (sh // 8) * 8
    else:
        top = plane + first * sh
        bottom = plane + second * sh
    cells = _load_rows(top, x, mask, W, UW, sw, RESIZE_X, UNIT)
    if RESIZE_Y:
        cells += (_load_rows(bottom, x, mask, W, UW, sw, RESIZE_X, UNIT) - cells) * weight
    return cells


@triton.jit
def plane_start(x, b, c, sb, sc, WIDE: tl.constexpr):
    """Return where a plane starts."""
    if WIDE:  # tells the compiler that planes start at multiples of 8 cells
        start = x + b.to(tl.int64) * (sb // 8 * 8) + c.to(tl.int64) * (sc // 8 * 8)
    else:
        start = x + b.to(tl.int64) * sb + c.to(tl.int64) * sc
    return start


@triton.jit
def _measure_plane(
    x, means, peaks, energies, plane, block, B, H, UH, P, V, N, C, W, UW, Q, blocks, sb, sc, sh, sw,
    BATCH: tl.constexpr, CENTER: tl.constexpr, RESIZE_Y: tl.constexpr, RESIZE_X: tl.constexpr,
    PAD: tl.constexpr, EXACT: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    b, c = plane // C, plane % C
    index = c * B + b
    if BATCH:
        index = b * C + c
    start = plane_start(x, b, c, sb, sc, WIDE)
    width = Q
    if EXACT:
        width = COLUMNS
    q = block * COLUMNS + tl.arange(0, COLUMNS)
    peak = tl.zeros((ROWS, COLUMNS), tl.float32)
    energy = tl.zeros((COLUMNS,), tl.float64)
    for p in range(P):
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, N, ROWS):
            n = first + tl.arange(0, ROWS)
            u, v = n // V, n % V
            cells = _load_cells(
                start, (u * P + p)[:, None], (v * width)[:, None] + q[None, :],
                (n < N)[:, None] & (q < width)[None, :], H, W, UH, UW, sh, sw,
                RESIZE_Y, RESIZE_X, PAD, UNIT, WIDE,
            )  # fmt: skip
            total += cells
            peak = tl.maximum(peak, tl.abs(cells))
        if CENTER:
            mean = tl.sum(total, 0) / N
            tl.store(means + (index.to(tl.int64) * P + p) * width + q, mean, q < width)
            energy += mean.to(tl.float64) * mean
    tl.store(peaks + index * blocks + block, tl.max(peak))
    tl.store(energies + index * blocks + block, tl.sum(energy))


@Kernel
def measure(
    x_ptr, y_ptr, means_ptr, peaks_ptr, energies_ptr, B, H, UH, P, V, N,
    XC, XW, XUW, XQ, x_blocks, xb: tl.int64, xc: tl.int64, xh, xw,
    YC, YW, YUW, YQ, y_blocks, yb: tl.int64, yc: tl.int64, yh, yw,
    BATCH: tl.constexpr, CENTER: tl.constexpr, RESIZE_Y: tl.constexpr, RESIZE_X: tl.constexpr,
    PAD: tl.constexpr, EXACT: tl.constexpr, X_UNIT: tl.constexpr, X_WIDE: tl.constexpr,
    Y_UNIT: tl.constexpr, Y_WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the mean over the patches of every cell of a patch, and the largest value.

    There is one program per plane, block of columns of a patch, and side. ``means`` are
    ``(plane, P, Q)``; ``peaks`` and ``energies``, the sum of squared means, are
    ``(plane, blocks)``. Planes of a group lie side by side, those of the student first.
    """
    plane, block, side = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if side == 0:
        if (plane < B * XC) & (block < x_blocks):
            _measure_plane(
                x_ptr, means_ptr, peaks_ptr, energies_ptr, plane, block, B, H, UH, P, V, N,
                XC, XW, XUW, XQ, x_blocks, xb, xc, xh, xw,
                BATCH, CENTER, RESIZE_Y, RESIZE_X, PAD, EXACT, X_UNIT, X_WIDE, ROWS, COLUMNS,
            )  # fmt: skip
    else:
        if (plane < B * YC) & (block < y_blocks):
            planes = B * XC
            _measure_plane(
                y_ptr, means_ptr + planes.to(tl.int64) * P * XQ, peaks_ptr + planes * x_blocks,
                energies_ptr + planes * x_blocks, plane, block, B, H, UH, P, V, N,
                YC, YW, YUW, YQ, y_blocks, yb, yc, yh, yw,
                BATCH, CENTER, RESIZE_Y, RESIZE_X, PAD, EXACT, Y_UNIT, Y_WIDE, ROWS, COLUMNS,
            )  # fmt: skip


@triton.jit
def scale_of(peaks, count):
    """Return the power of two that brings the largest of ``count`` peaks to 2^12 or a little more.

    Then all parts of a number are in float16's range, and squares of Gram matrices in float32's.
    """
    peak = tl.zeros((256,), tl.float32)
    for first in range(0, count, 256):
        i = first + tl.arange(0, 256)
        peak = tl.maximum(peak, tl.load(peaks + i, i < count, 0.0))
    exponent = (tl.max(peak, 0).to(tl.int32, bitcast=True) >> 23) & 255
    return ((266 - tl.maximum(exponent, 12)) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _cut_plane(
    x, means, peaks, out, part, plane, p, block, first_group, groups,
    B, H, UH, P, V, N, C, W, UW, Q, blocks, sb, sc, sh, sw, D,
    BATCH: tl.constexpr, CENTER: tl.constexpr, RESIZE_Y: tl.constexpr, RESIZE_X: tl.constexpr,
    PAD: tl.constexpr, EXACT: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    if BATCH:
        group, member, members = plane // C, plane % C, C
        b, c = first_group + group, member
        index = b * C + c
    else:
        group, member, members = plane % groups, plane // groups, B
        b, c = member, first_group + group
        index = c * B + b
    start = plane_start(x, b, c, sb, sc, WIDE)
    scale = scale_of(peaks + (first_group + group) * members * blocks, members * blocks)
    width = Q
    if EXACT:
        width = COLUMNS
    q = block * COLUMNS + tl.arange(0, COLUMNS)
    if CENTER:
        mean = tl.load(means + (index.to(tl.int64) * P + p) * width + q, q < width, 0.0)
    out += group.to(tl.int64) * N * D + (member * P + p) * width
    for first in range(0, N, ROWS):
        n = first + tl.arange(0, ROWS)
        u, v = n // V, n % V
        mask = (n < N)[:, None] & (q < width)[None, :]
        cells = _load_cells(
            start, (u * P + p)[:, None], (v * width)[:, None] + q[None, :], mask,
            H, W, UH, UW, sh, sw, RESIZE_Y, RESIZE_X, PAD, UNIT, WIDE,
        )  # fmt: skip
        if CENTER:
            cells -= mean[None, :]
        cells *= scale
        high = cells.to(tl.float16)
        place = out + n[:, None] * D + q[None, :]
        tl.store(place, high, mask)
        if PARTS == 2:
            tl.store(place + part, (cells - high.to(tl.float32)).to(tl.float16), mask)


@Kernel
def cut(
    x_ptr, y_ptr, means_ptr, peaks_ptr, x_out_ptr, y_out_ptr, x_part_64, y_part_64,
    first_group, groups, B, H, UH, P, V, N,
    XC, XW, XUW, XQ, x_blocks, xb: tl.int64, xc: tl.int64, xh, xw, x_d_64,
    YC, YW, YUW, YQ, y_blocks, yb: tl.int64, yc: tl.int64, yh, yw, y_d_64,
    BATCH: tl.constexpr, CENTER: tl.constexpr, RESIZE_Y: tl.constexpr, RESIZE_X: tl.constexpr,
    PAD: tl.constexpr, EXACT: tl.constexpr, X_UNIT: tl.constexpr, X_WIDE: tl.constexpr,
    Y_UNIT: tl.constexpr, Y_WIDE: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the patches of some groups, ``(PARTS, groups, N, D)``, centred and scaled, in float16.

    There is one program per plane, row of a patch, block of its columns, and side. With two parts
    the first is the number rounded to float16 and the second the remainder: together they hold 22
    bits.
    """
    plane, line, side = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if side == 0:
        others = B
        if BATCH:
            others = XC
        if (plane < groups * others) & (line < P * x_blocks):
            _cut_plane(
                x_ptr, means_ptr, peaks_ptr, x_out_ptr, x_part_64 * 64,
                plane, line // x_blocks, line % x_blocks, first_group, groups,
                B, H, UH, P, V, N, XC, XW, XUW, XQ, x_blocks, xb, xc, xh, xw, x_d_64 * 64,
                BATCH, CENTER, RESIZE_Y, RESIZE_X, PAD, EXACT, X_UNIT, X_WIDE, PARTS, ROWS, COLUMNS,
            )  # fmt: skip
    else:
        others = B
        if BATCH:
            others = YC
        if (plane < groups * others) & (line < P * y_blocks):
            planes = B * XC
            _cut_plane(
                y_ptr, means_ptr + planes.to(tl.int64) * P * XQ, peaks_ptr + planes * x_blocks,
                y_out_ptr, y_part_64 * 64,
                plane, line // y_blocks, line % y_blocks, first_group, groups,
                B, H, UH, P, V, N, YC, YW, YUW, YQ, y_blocks, yb, yc, yh, yw, y_d_64 * 64,
                BATCH, CENTER, RESIZE_Y, RESIZE_X, PAD, EXACT, Y_UNIT, Y_WIDE, PARTS, ROWS, COLUMNS,
            )  # fmt: skip
