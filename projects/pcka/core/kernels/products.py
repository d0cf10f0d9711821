"""Kernels on patches: Gram matrices, how they compare, and the gradient.

Shapes: groups, N patches, D features of a patch, padded to a multiple of 64; K and L, the Gram
matrices of the student and of the teacher, and ``E = X Y^T`` are ``(groups, N, N8)``, N8 being N
padded to a multiple of 8. Patches are float16 in one part or two, see :func:`.cells.cut`; all is
added up in float32 or better.
"""

import triton
import triton.language as tl

from .cells import scale_of
from .launch import Kernel

# A group whose energy is below this many rounding errors of its mean is dead: see core/grams.py.
_NOISE = tl.constexpr((8.0 * 2.0**-23) ** 2)
# The operator of the gradient has entries of at most 2; times this they use float16's range.
OPERATOR_SCALE = tl.constexpr(4096.0)


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

    One program a tile of the upper half, split of the features, and group. With several splits
    ``k`` takes the partial tiles, ``(groups, splits, tiles, 2, SIZE, SIZE)``, for :func:`merge`.
    With ``INTER`` it writes ``E = X Y^T`` as well, and |E|^2 as the fourth sum.
    """
    tile, split, group = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    row, column = _tile_place(tile, tiles)
    i = row * SIZE + tl.arange(0, SIZE)
    j = column * SIZE + tl.arange(0, SIZE)
    # Rows beyond the last repeat it, so that nothing has to be masked while multiplying.
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

    One program a strip of ``ROWS`` rows of a tile, and group; ``count`` tiles.
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


@triton.jit
def _total(parts, count):
    """Return the sum of ``count`` numbers in float64, ``()``."""
    total = tl.zeros((256,), tl.float64)
    for first in range(0, count, 256):
        i = first + tl.arange(0, 256)
        total += tl.load(parts + i, i < count, 0.0).to(tl.float64)
    return tl.sum(total, 0)


@triton.jit
def _inverse_norm(squares, count, peaks, energies, members, N):
    """Return ``1 / |K|``, 0 for a dead group, and the scale of its features."""
    norm = tl.sqrt(_total(squares, count))
    scale = scale_of(peaks, members).to(tl.float64)
    noise = _total(energies, members) * scale * scale * N * _NOISE
    return tl.where(norm <= noise, 0.0, 1.0 / norm), scale


@triton.jit
def _compare(sums, count, peaks, energies, group, all_groups, XM, YM, N, INTER: tl.constexpr):
    """Return CKA over the patches and over the features, ``1 / |K|``, ``1 / |L|`` and both scales.

    ``XM`` and ``YM`` peaks and energies belong to a group; the teacher's follow the student's. CKA
    over the features is 0 without ``INTER``. NaN stays NaN.
    """
    other = all_groups * XM + group * YM
    p, x_scale = _inverse_norm(sums, count, peaks + group * XM, energies + group * XM, XM, N)
    q, y_scale = _inverse_norm(sums + count, count, peaks + other, energies + other, YM, N)
    intra = _clamp(_total(sums + 2 * count, count) * p * q)
    inter = intra * 0.0
    if INTER:
        inter = _clamp(_total(sums + 3 * count, count) * p * q)
    return intra, inter, p, q, x_scale, y_scale


@triton.jit
def _clamp(value):
    """Return a number within [0, 1]; NaN stays NaN."""
    return tl.where(value > 1.0, 1.0, tl.where(value < 0.0, 0.0, value))


@Kernel
def compare(
    sums_ptr, peaks_ptr, energies_ptr, values_ptr,
    share, first_group, all_groups, XM, YM, N, count, INTER: tl.constexpr,
):  # fmt: skip
    """Write the CKA of every group, ``(groups,)``, where no gradient is needed."""
    local = tl.program_id(0)
    group = first_group + local
    sums = sums_ptr + local.to(tl.int64) * 4 * count
    intra, inter, p, q, x_scale, y_scale = _compare(
        sums, count, peaks_ptr, energies_ptr, group, all_groups, XM, YM, N, INTER
    )
    value = intra * (1.0 - share) + inter * share
    tl.store(values_ptr + group, value.to(tl.float32))


@triton.jit
def _add_product(
    total, l, toward, k, away, x, part, rows, columns, N, N8, d_64,
    BOTH: tl.constexpr, MIRRORED: tl.constexpr, PARTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Return ``total + (toward L - away K) X`` for a tile; without ``BOTH`` K is left out."""
    x += columns[None, :]
    wide = (columns < d_64 * 64)[None, :]
    for first in range(0, N, DEPTH):
        j = first + tl.arange(0, DEPTH)
        if MIRRORED:
            cells, mask = j[None, :] * N8 + rows[:, None], (j < N)[None, :]
        else:
            cells, mask = rows[:, None] * N8 + j[None, :], (j < N8)[None, :]
        operator = tl.load(l + cells, mask, 0.0) * toward
        if BOTH:
            operator -= tl.load(k + cells, mask, 0.0) * away
        operator_high = operator.to(tl.float16)
        lines = x + tl.minimum(j, N - 1)[:, None] * (d_64 * 64)
        x_high = tl.load(lines, wide, 0.0)
        total = tl.dot(operator_high, x_high, total)
        if PARTS == 2:
            operator_low = (operator - operator_high.to(tl.float32)).to(tl.float16)
            total = tl.dot(operator_low, x_high, total)
            total = tl.dot(operator_high, tl.load(lines + part, wide, 0.0), total)
    return total


@Kernel
def pull(
    x_ptr, y_ptr, k_ptr, l_ptr, e_ptr, sums_ptr, peaks_ptr, energies_ptr, values_ptr, factors_ptr,
    out_ptr, x_part_64, keep, share, first_group, all_groups, XM, YM, N, count,
    N_8, D, d_64, C, P, Q, U, V,
    BATCH: tl.constexpr, TEACHER: tl.constexpr, INTER: tl.constexpr, PARTS: tl.constexpr,
    PATCH_WIDTH: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the cells, ``(L/q - CKA K/p) X``, where they lie in ``(B, C, UH, UW)``.

    One program a block of features, tile of patches, and group. With the ``TEACHER`` the roles are
    exchanged: x, k and l are then the teacher's patches and Gram matrices. With ``INTER`` a share
    is that of the CKA over the features, ``E Y/q - CKA K X/p``. What all entries of a group are
    multiplied by goes to ``factors``, since float16 holds the rest; ``keep`` is a power of two
    that brings the rest into its range.
    """
    block, tile, local = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group = first_group + local
    sums = sums_ptr + local.to(tl.int64) * 4 * count
    intra, inter, p, q, x_scale, y_scale = _compare(
        sums, count, peaks_ptr, energies_ptr, group, all_groups, XM, YM, N, INTER
    )
    value = intra * (1.0 - share) + inter * share
    own, other, scale = p, q, x_scale
    if TEACHER:
        own, other, scale = q, p, y_scale
    if (block == 0) & (tile == 0):
        tl.store(values_ptr + group, value.to(tl.float32))
        factor = 2.0 * own * scale / (keep * OPERATOR_SCALE)
        tl.store(factors_ptr + group, factor.to(tl.float32))

    i = tile * SIZE + tl.arange(0, SIZE)
    d = block * WIDTH + tl.arange(0, WIDTH)
    N8, rows, part = N_8 * 8, tl.minimum(i, N - 1), x_part_64 * 64
    matrix, features = local.to(tl.int64) * N * N8, local.to(tl.int64) * N * (d_64 * 64)
    total = tl.zeros((SIZE, WIDTH), tl.float32)
    if INTER:
        # |E| is at most sqrt(|K| |L|): divided by that it fits into float16 as K/p and L/q do.
        root = tl.sqrt(own * other)
        e = e_ptr + matrix
        total = _add_product(
            total, e, (root * share * OPERATOR_SCALE).to(tl.float32), e, 0.0, y_ptr + features,
            part, rows, d, N, N8, d_64, False, TEACHER, PARTS, DEPTH,
        )  # fmt: skip
        total *= tl.where(own > 0.0, other / root, 0.0).to(tl.float32)
    total = _add_product(
        total, l_ptr + matrix, (other * (1.0 - share) * OPERATOR_SCALE).to(tl.float32),
        k_ptr + matrix, (value * own * OPERATOR_SCALE).to(tl.float32), x_ptr + features,
        part, rows, d, N, N8, d_64, True, False, PARTS, DEPTH,
    )  # fmt: skip

    width = Q
    if PATCH_WIDTH:  # known to the compiler, for wide stores
        width = PATCH_WIDTH
    u, v = i // V, i % V
    line, q = d // width, d % width
    member, p = line // P, line % P
    if BATCH:
        plane = group.to(tl.int64) * C + member
    else:
        plane = member.to(tl.int64) * C + group
    row = (plane * U * P + p)[None, :] + (u * P)[:, None]
    place = row * (V * width) + (v * width)[:, None] + q[None, :]
    mask = (i < N)[:, None] & (line < D // width)[None, :]
    tl.store(out_ptr + place, (total * keep).to(out_ptr.dtype.element_ty), mask)
