"""Bilinear resizing as products with banded matrices.

An output cell depends on two input cells, so the matrix of a resize is a band: cut into blocks it
is a few small GEMMs, faster than aten's kernel on CPU, the adjoint (its transpose) too, and
deterministic on CUDA, where aten's adjoint is not. The weights are computed in float64. On a GPU
there is one block: a launch costs more than the zeros.

Shapes: B images, C channels, (H, W) map.
"""

from functools import lru_cache

import torch
from torch import Tensor

# Columns that are computed together.
_COLUMNS = 16


def resize(x: Tensor, height: int, width: int, patch_height: int) -> Tensor:
    """``(B, C, H, W) -> (B, C, height, width)`` as ``F.interpolate(mode="bilinear")`` does it.

    Args:
        patch_height: rows that are computed together, a divisor of the height.
    """
    b, c, h, w = x.shape
    if w != width:
        rows = x.reshape(-1, w)
        blocks = _column_blocks(w, width, x.dtype, x.device)
        rows = torch.cat([rows[:, used] @ weights.T for used, _, weights in blocks], 1)
        x = rows.view(b, c, h, width)
    if h != height:
        used, weights = _row_blocks(h, height, patch_height, x.dtype, x.device)
        windows = x if len(weights) == 1 else x.index_select(2, used)
        windows = windows.reshape(-1, weights.shape[2], width)
        x = torch.bmm(weights.repeat(b * c, 1, 1), windows).view(b, c, height, width)
    return x


def resize_adjoint(x: Tensor, height: int, width: int, patch_height: int) -> Tensor:
    """The transpose of :func:`resize`: from its output's size back to ``(height, width)``."""
    b, c, h, w = x.shape
    if h != height:
        used, weights = _row_blocks(height, h, patch_height, x.dtype, x.device)
        windows = x.reshape(-1, weights.shape[1], w)
        x = torch.bmm(weights.mT.repeat(b * c, 1, 1), windows).view(b, c, -1, w)
        if len(weights) > 1:
            x = x.new_zeros(b, c, height, w).index_add_(2, used, x)
    if w != width:
        rows = x.reshape(-1, w)
        out = rows.new_zeros(len(rows), width)
        for used, columns, weights in _column_blocks(width, w, x.dtype, x.device):
            out[:, used].addmm_(rows[:, columns], weights)
        x = out.view(b, c, height, width)
    return x


def _matrix(n_in: int, n_out: int) -> Tensor:
    """``(n_out, n_in)``, float64."""
    position = (torch.arange(n_out, dtype=torch.float64) + 0.5) * (n_in / n_out) - 0.5
    distance = position.clamp(0, n_in - 1)[:, None] - torch.arange(n_in)
    return (1 - distance.abs()).clamp(min=0)


@lru_cache(maxsize=256)
def _row_blocks(
    n_in: int, n_out: int, block: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Blocks ``(K, block, window)`` of the matrix, and the inputs ``(K * window,)`` they meet."""
    blocks = _matrix(n_in, n_out).view(-1, block if device.type == "cpu" else n_out, n_in)
    touched = blocks.any(1).int()
    first = touched.argmax(1)
    window = int((n_in - touched.flip(1).argmax(1) - first).max())
    used = first.clamp(max=n_in - window)[:, None] + torch.arange(window)
    weights = blocks.gather(2, used[:, None].expand(-1, blocks.shape[1], -1))
    return used.flatten().to(device), weights.to(device, dtype)


@lru_cache(maxsize=256)
def _column_blocks(
    n_in: int, n_out: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[slice, slice, Tensor]]:
    """Inputs, outputs and the block of the matrix between them."""
    matrix, found = _matrix(n_in, n_out), []
    step = _COLUMNS if device.type == "cpu" else n_out
    for start in range(0, n_out, step):
        columns = slice(start, start + step)
        touched = matrix[columns].any(0).nonzero()
        used = slice(int(touched[0]), int(touched[-1]) + 1)
        found.append((used, columns, matrix[columns, used].to(device, dtype).contiguous()))
    return found
