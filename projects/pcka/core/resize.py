"""Bilinear resizing and its adjoint, as products with banded matrices.

An output cell depends on two input cells, so the matrix of a resize is a band. Rows of a map are
contiguous in memory: each diagonal of the band adds some rows, times its weights, to as many
others. Columns are not contiguous: the band is cut into blocks, each a small GEMM. This is faster
than aten's kernels on a CPU, and deterministic on CUDA, where aten's adjoint is not. The weights
are computed in float64.

Shapes: B images, C channels, (H, W) map.
"""

from functools import lru_cache

import torch
from torch import Tensor

# The devices on which the band is cut into blocks. On others the whole matrix is one block, because
# launching one more kernel costs more than multiplying by zeros.
BANDED_DEVICES = {"cpu"}
# Columns that are computed together.
_COLUMNS = 16


def bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """Resize ``(B, C, H, W)`` to ``(B, C, height, width)`` as bilinear ``F.interpolate`` does."""
    b, c, h, w = x.shape
    if h != height:
        x = _mix_rows(x, x.new_empty(b, c, height, w), transposed=False)
    if w == width:
        return x
    rows = x.reshape(-1, w)
    columns = rows.new_empty(len(rows), width)
    for made, used, weights in _blocks(w, width, _block_size(x, width), x.dtype, x.device):
        columns[:, made].addmm_(rows[:, used], weights.T, beta=0)
    return columns.view(b, c, height, width)


def bilinear_adjoint(x: Tensor, out: Tensor) -> Tensor:
    """Apply the transpose of :func:`bilinear` to ``x``, and write the result into ``out``.

    ``x (B, C, height, width)`` has the size that :func:`bilinear` made, ``out (B, C, H, W)`` the
    size that it was given.
    """
    b, c, h, w = x.shape
    height, width = out.shape[2:]
    if w != width:
        rows = x.reshape(-1, w)
        columns = rows.new_zeros(len(rows), width)
        for made, used, weights in _blocks(width, w, _block_size(x, w), x.dtype, x.device):
            columns[:, used].addmm_(rows[:, made], weights)
        x = columns.view(b, c, h, width)
    return out.copy_(x) if h == height else _mix_rows(x, out, transposed=True)


def _mix_rows(x: Tensor, out: Tensor, transposed: bool) -> Tensor:
    """Write mixtures of the rows of ``x (B, C, H, W)`` into ``out (B, C, H', W)``."""
    n_in, n_out = (out.shape[2], x.shape[2]) if transposed else (x.shape[2], out.shape[2])
    if x.device.type not in BANDED_DEVICES:
        ((_, _, weights),) = _blocks(n_in, n_out, n_out, x.dtype, x.device)
        return out.copy_((weights.T if transposed else weights) @ x)
    out.zero_()
    for made, used, weights in _diagonals(n_in, n_out, x.dtype):
        made, used = (used, made) if transposed else (made, used)
        out[:, :, made].addcmul_(x[:, :, used], weights)
    return out


def _block_size(x: Tensor, width: int) -> int:
    return _COLUMNS if x.device.type in BANDED_DEVICES else width


def _matrix(n_in: int, n_out: int) -> Tensor:
    """Return the matrix of a resize, ``(n_out, n_in)``, float64."""
    position = (torch.arange(n_out, dtype=torch.float64) + 0.5) * (n_in / n_out) - 0.5
    distance = position.clamp(0, n_in - 1)[:, None] - torch.arange(n_in)
    return (1 - distance.abs()).clamp(min=0)


@lru_cache(maxsize=256)
def _diagonals(n_in: int, n_out: int, dtype: torch.dtype) -> list[tuple[slice, slice, Tensor]]:
    """Return outputs, inputs and weights ``(n, 1)`` of each diagonal that is not zero."""
    matrix, found = _matrix(n_in, n_out), []
    rows, columns = matrix.nonzero(as_tuple=True)
    for offset in (columns - rows).unique().tolist():
        outputs = rows[columns - rows == offset]
        made = slice(int(outputs[0]), int(outputs[-1]) + 1)
        used = slice(made.start + offset, made.stop + offset)
        found.append((made, used, matrix[made, used].diagonal()[:, None].to(dtype)))
    return found


@lru_cache(maxsize=256)
def _blocks(
    n_in: int, n_out: int, size: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[slice, slice, Tensor]]:
    """Return blocks of ``size`` outputs, the inputs that they touch and the weights between."""
    matrix, found = _matrix(n_in, n_out), []
    for start in range(0, n_out, size):
        made = slice(start, start + size)
        touched = matrix[made].any(0).nonzero()
        used = slice(int(touched[0]), int(touched[-1]) + 1)
        found.append((made, used, matrix[made, used].to(device, dtype).contiguous()))
    return found
