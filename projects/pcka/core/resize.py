"""Bilinear resizing as products with banded matrices, and its adjoint.

An output cell depends on two input cells, so the matrix of a resize is a band. Block by block it
is a few small GEMMs: faster than aten's kernel on CPU, the adjoint too, and deterministic on CUDA,
where aten's adjoint is not. The weights are computed in float64.

Shapes: (H, W) to (H', W').
"""

from functools import lru_cache

import torch
from torch import Tensor

# (first, last + 1 input row, weights (rows of the block, input rows)) per block of output rows
_Bands = list[tuple[int, int, Tensor]]


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``(..., H, W) -> (..., H', W')``, as ``F.interpolate(mode="bilinear")`` does."""
    return _resize(x, tuple(x.shape[-2:]), size, adjoint=False)


def resize_adjoint(gradient: Tensor, size: tuple[int, int]) -> Tensor:
    """``(..., H', W') -> (..., H, W) = size``: what :func:`resize` sends back to its input."""
    return _resize(gradient, size, tuple(gradient.shape[-2:]), adjoint=True)


def _resize(x: Tensor, small: tuple[int, int], large: tuple[int, int], *, adjoint: bool) -> Tensor:
    for axis in (1, 0):  # columns as rows of the transpose
        if small[axis] != large[axis]:
            bands = _bands(small[axis], large[axis], adjoint, x.dtype, x.device)
            x = _multiply(bands, x) if axis == 0 else _multiply(bands, x.mT).mT
    return x


def _multiply(bands: _Bands, x: Tensor) -> Tensor:
    return torch.cat([weights @ x[..., start:stop, :] for start, stop, weights in bands], -2)


@lru_cache(maxsize=256)
def _bands(
    n_in: int, n_out: int, transpose: bool, dtype: torch.dtype, device: torch.device
) -> _Bands:
    """The matrix ``(n_out, n_in)`` of a resize of one axis, or its transpose, in blocks of rows."""
    position = (torch.arange(n_out, dtype=torch.float64) + 0.5) * (n_in / n_out) - 0.5
    distance = position.clamp(0, n_in - 1)[:, None] - torch.arange(n_in)
    matrix = (1 - distance.abs()).clamp(min=0)
    if transpose:
        matrix = matrix.T
    # On a GPU a launch costs more than the zeros.
    block = 16 if device.type == "cpu" else len(matrix)
    bands = []
    for rows in matrix.split(block):
        used = rows.any(0).nonzero()[:, 0]
        start, stop = int(used[0]), int(used[-1]) + 1
        bands.append((start, stop, rows[:, start:stop].to(device, dtype).contiguous()))
    return bands
