"""Bilinear resizing and its adjoint, as products with banded matrices.

An output cell depends on two input cells, so the matrix of a resize is a band. Rows are whole in
memory: each diagonal of the band adds some rows, times its weights, to as many others. Columns are
not: the band is cut into blocks, each a small GEMM. This is faster than aten's kernels on a CPU,
and deterministic on CUDA, where aten's adjoint is not. The weights are computed in float64. On a
GPU the whole matrix is one block, since a launch costs more than multiplying by zeros.

Shapes: B images, C channels, (H, W) map.
"""

from functools import lru_cache

import torch
from torch import Tensor

# Columns that are computed together.
_COLUMNS = 16


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Resize ``(B, C, H, W)`` to ``(B, C, height, width)`` as bilinear ``F.interpolate`` does."""
    b, c, h, w = x.shape
    if h != height:
        x = _mix_rows(x, x.new_empty(b, c, height, w), transposed=False)
    if w == width:
        return x
    rows = x.reshape(-1, w)
    columns = rows.new_empty(len(rows), width)
    for made, used, weights in _blocks(w, width, x.dtype, x.device):
        columns[:, made].addmm_(rows[:, used], weights.T, beta=0)
    return columns.view(b, c, height, width)


def resize_adjoint(x: Tensor, out: Tensor) -> Tensor:
    """Apply the transpose of :func:`resize`: from its output's size into ``out``, filled."""
    b, c, h, w = x.shape
    height, width = out.shape[2:]
    if w != width:
        rows = x.reshape(-1, w)
        columns = rows.new_zeros(len(rows), width)
        for made, used, weights in _blocks(width, w, x.dtype, x.device):
            columns[:, used].addmm_(rows[:, made], weights)
        x = columns.view(b, c, h, width)
    return out.copy_(x) if h == height else _mix_rows(x, out, transposed=True)


def _mix_rows(x: Tensor, out: Tensor, transposed: bool) -> Tensor:
    """Mix the rows of ``(B, C, H, W)`` into ``out (B, C, H', W)``, filled."""
    sizes = (out.shape[2], x.shape[2]) if transposed else (x.shape[2], out.shape[2])
    if _in_one_block(x.device):
        ((_, _, weights),) = _blocks(*sizes, x.dtype, x.device)
        return out.copy_((weights.T if transposed else weights) @ x)
    out.zero_()
    for made, used, weights in _diagonals(*sizes, x.dtype):
        made, used = (used, made) if transposed else (made, used)
        out[:, :, made].addcmul_(x[:, :, used], weights)
    return out


def _in_one_block(device: torch.device) -> bool:
    return device.type != "cpu"


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
    n_in: int, n_out: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[slice, slice, Tensor]]:
    """Return each block of outputs, the inputs that it touches and the weights between them."""
    matrix, found = _matrix(n_in, n_out), []
    step = n_out if _in_one_block(device) else _COLUMNS
    for start in range(0, n_out, step):
        made = slice(start, start + step)
        touched = matrix[made].any(0).nonzero()
        used = slice(int(touched[0]), int(touched[-1]) + 1)
        found.append((made, used, matrix[made, used].to(device, dtype).contiguous()))
    return found
