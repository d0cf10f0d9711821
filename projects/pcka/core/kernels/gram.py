"""Kernels that multiply patches: the Gram matrices of both sides, and how they compare.

Shapes: groups, N patches, D features of a patch, padded to a multiple of 64; K and L, the Gram
matrices of the student and of the teacher, and ``E = X Y^T`` are ``(groups, N, N8)``, N8 being N
padded to a multiple of 8. Patches are float16 in one part or two, see :func:`.cells.cut`; sums are
float32 or better.
"""

import triton
import triton.language as tl

from .launch import Kernel


@triton.jit
def _tile_place(tile, tiles):
    """Return row and column of a tile of the upper half of a matrix of ``tiles`` by ``tiles``."""
    row = 0
    while tile >= tiles - row:
        tile -= tiles - row
        row += 1
    return row, row + tile


@triton.jit
def _tile_product(
    x, x_part, x_rows, y, y_part, y_rows, D, split, splits,
    PARTS: tl.constexpr, SIZE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Return a tile of ``X Y^T``, summed over one of the splits of the features."""
    steps = tl.cdiv(tl.cdiv(D, DEPTH), splits) * DEPTH
    depth = tl.arange(0, DEPTH)
    left = x + x_rows[:, None] * D + depth[None, :]
    right = y + y_rows[None, :] * D + depth[:, None]
    total = tl.zeros((SIZE, SIZE), tl.float32)
    for d in range(split * steps, tl.minimum((split + 1) * steps, D), DEPTH):
        left_high = tl.load(left + d)
        right_high = tl.load(right + d)
        total = tl.dot(left_high, right_high, total)
        if PARTS == 2:
            total = tl.dot(left_high, tl.load(right + y_part + d), total)
            total = tl.dot(tl.load(left + x_part + d), right_high, total)
    return total


@triton.jit
def _write_tile(k_ptr, l_ptr, sums, k, l, i, j, N, N8, mirrored, count):
    """Write a tile of K and L, its mirror image, and its part of |K|^2, |L|^2 and <K, L>."""
    inside = (i < N)[:, None] & (j < N)[None, :]
    k = tl.where(inside, k, 0.0)
    l = tl.where(inside, l, 0.0)
    place = i[:, None] * N8 + j[None, :]
    mask = (i < N)[:, None] & (j < N8)[None, :]
    tl.store(k_ptr + place, k, mask)
    tl.store(l_ptr + place, l, mask)
    weight = 1.0
    if mirrored:
        weight = 2.0
        place = i[:, None] + j[None, :] * N8
        mask = (i < N8)[:, None] & (j < N)[None, :]
        tl.store(k_ptr + place, k, mask)
        tl.store(l_ptr + place, l, mask)
    tl.store(sums, weight * tl.sum(k * k))
    tl.store(sums + count, weight * tl.sum(l * l))
    tl.store(sums + 2 * count, weight * tl.sum(k * l))


@triton.jit
def _write_cross_tile(e_ptr, e, i, j, N, N8):
    """Write a tile of E; return its part of |E|^2."""
    e = tl.where((i < N)[:, None] & (j < N)[None, :], e, 0.0)
    tl.store(e_ptr + i[:, None] * N8 + j[None, :], e, (i < N)[:, None] & (j < N8)[None, :])
    return tl.sum(e * e)


@Kernel
def gram(
    x_ptr, y_ptr, k_ptr, l_ptr, e_ptr, sums_ptr, x_part_64, y_part_64,
    N, N_8, x_d_64, y_d_64, tiles, splits,
    PARTS: tl.constexpr, SPLIT: tl.constexpr, INTER: tl.constexpr,
    SIZE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write K and L tile by tile, and the sums by which they compare, ``(groups, 4, tiles)``.

    There is one program per tile of the upper half, split of the features, and group. With several
    splits ``k`` takes the partial tiles, ``(groups, splits, tiles, 2, SIZE, SIZE)``, for
    :func:`merge`.
    With ``INTER`` it writes ``E = X Y^T`` as well, and |E|^2 as the fourth sum.
    """
    tile, split, group = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    row, column = _tile_place(tile, tiles)
    i = row * SIZE + tl.arange(0, SIZE)
    j = column * SIZE + tl.arange(0, SIZE)
    # Rows beyond the last one repeat it, so that the multiplication needs no mask.
    rows, columns = tl.minimum(i, N - 1), tl.minimum(j, N - 1)
    x_d, y_d, x_part, y_part = x_d_64 * 64, y_d_64 * 64, x_part_64 * 64, y_part_64 * 64
    x, y = x_ptr + group * N * x_d, y_ptr + group * N * y_d
    k = _tile_product(x, x_part, rows, x, x_part, columns, x_d, split, splits, PARTS, SIZE, DEPTH)
    l = _tile_product(y, y_part, rows, y, y_part, columns, y_d, split, splits, PARTS, SIZE, DEPTH)
    count = tl.num_programs(0)
    if SPLIT:
        place = ((group * splits + split) * count + tile) * (2 * SIZE * SIZE)
        cells = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
        tl.store(k_ptr + place + cells, k)
        tl.store(k_ptr + place + SIZE * SIZE + cells, l)
    else:
        N8 = N_8 * 8
        matrix = group * N * N8
        sums = sums_ptr + group * 4 * count + tile
        _write_tile(k_ptr + matrix, l_ptr + matrix, sums, k, l, i, j, N, N8, row != column, count)
        if INTER:
            e = _tile_product(
                x, x_part, rows, y, y_part, columns, x_d, split, splits, PARTS, SIZE, DEPTH
            )
            square = _write_cross_tile(e_ptr + matrix, e, i, j, N, N8)
            if row != column:
                e = _tile_product(
                    x, x_part, columns, y, y_part, rows, x_d, split, splits, PARTS, SIZE, DEPTH
                )
                square += _write_cross_tile(e_ptr + matrix, e, j, i, N, N8)
            tl.store(sums + 3 * count, square)


@Kernel
def merge(
    partial_ptr, k_ptr, l_ptr, sums_ptr, N, N_8, tiles, splits, count,
    SIZE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Add up the splits of the tiles of K and L, in their order: the second half of :func:`gram`.

    There is one program per strip of ``ROWS`` rows of a tile, and group; ``count`` tiles.
    """
    strip, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    tile, piece = strip // (SIZE // ROWS), strip % (SIZE // ROWS)
    row, column = _tile_place(tile, tiles)
    lines = piece * ROWS + tl.arange(0, ROWS)
    cells = lines[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    k = tl.zeros((ROWS, SIZE), tl.float32)
    l = tl.zeros((ROWS, SIZE), tl.float32)
    for split in range(splits):
        place = partial_ptr + ((group * splits + split) * count + tile) * (2 * SIZE * SIZE)
        k += tl.load(place + cells)
        l += tl.load(place + SIZE * SIZE + cells)
    matrix = group * N * (N_8 * 8)
    strips = tl.num_programs(0)
    _write_tile(
        k_ptr + matrix, l_ptr + matrix, sums_ptr + group * 4 * strips + strip, k, l,
        row * SIZE + lines, column * SIZE + tl.arange(0, SIZE), N, N_8 * 8, row != column, strips,
    )  # fmt: skip
