"""Kernels that read Gram matrices: CKA, and the gradient of the cells.

Shapes and letters: see :mod:`.gram`.
"""

import triton
import triton.language as tl

from .cells import scale_of
from .launch import Kernel

# A group whose energy is below this many rounding errors of its mean is dead: see core/grams.py.
_NOISE = tl.constexpr((8.0 * 2.0**-23) ** 2)
# The gradient operator has entries of at most 2; times this number they use float16's range.
OPERATOR_SCALE = tl.constexpr(4096.0)


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

    There is one program per block of features, tile of patches, and group. With ``TEACHER`` the
    roles are exchanged: x, k and l are then the teacher's patches and Gram matrices. With ``INTER``
    a share of the gradient is that of the CKA over the features, ``E Y/q - CKA K X/p``. The common
    factor of all entries of a group goes to ``factors``, so that float16 can hold the rest;
    ``keep`` is a power of two that brings the rest into its range.
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
        # |E| is at most sqrt(|K| |L|), so divided by that it fits into float16, as K/p and L/q do.
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
