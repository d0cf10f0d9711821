"""Bilinear resizing as products with banded matrices.

An output cell depends on two input cells, so the matrix of a resize is a band: block by block it is
a few small GEMMs, faster than aten's kernel on CPU, the adjoint (its transpose) too, and
deterministic on CUDA, where aten's adjoint is not. The weights are computed in float64.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Band(NamedTuple):
    """``output[rows] = weights @ input[used]``; the adjoint adds ``weights.T @ output[rows]``."""

    rows: slice
    used: slice
    weights: Tensor


@lru_cache(maxsize=256)
def bands(
    n_in: int, n_out: int, block: int, dtype: torch.dtype, device: torch.device
) -> list[Band]:
    """The resize of one axis as ``F.interpolate(mode="bilinear")`` does it.

    Args:
        n_in, n_out: cells before and after.
        block: rows of the matrix per band. On a GPU it is one band: a launch costs more than the
            zeros.
        dtype, device: of the weights.
    """
    position = (torch.arange(n_out, dtype=torch.float64) + 0.5) * (n_in / n_out) - 0.5
    distance = position.clamp(0, n_in - 1)[:, None] - torch.arange(n_in)
    matrix = (1 - distance.abs()).clamp(min=0)
    found = []
    for first in range(0, n_out, block if device.type == "cpu" else n_out):
        rows = slice(first, first + block if device.type == "cpu" else n_out)
        columns = matrix[rows].any(0).nonzero()[:, 0]
        used = slice(int(columns[0]), int(columns[-1]) + 1)
        found.append(Band(rows, used, matrix[rows, used].to(device, dtype).contiguous()))
    return found


def resize_columns(x: Tensor, width: int, block: int) -> Tensor:
    """``(M, W) -> (M, width)``."""
    found = bands(x.shape[1], width, block, x.dtype, x.device)
    return torch.cat([x[:, band.used] @ band.weights.T for band in found], 1)


def resize_columns_adjoint(gradient: Tensor, width: int, block: int) -> Tensor:
    """``(M, W) -> (M, width)``: from the output of :func:`resize_columns` back to its input."""
    out = gradient.new_zeros(len(gradient), width)
    for band in bands(width, gradient.shape[1], block, gradient.dtype, gradient.device):
        out[:, band.used].addmm_(gradient[:, band.rows], band.weights)
    return out
