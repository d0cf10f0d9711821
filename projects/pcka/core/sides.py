"""One side of a CKA: features centred, and in a scale in which no product leaves the range.

Shapes: G groups, N samples, D features; a number per group is ``(G, 1, 1)``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .distributed import all_max_, all_sum_, world_size

# A group within this many rounding errors of its mean holds no relation at all.
DEAD_RATIO = 8.0
# So few numbers are added up without losing digits.
_FEW = 1 << 14


class Side(NamedTuple):
    features: Tensor  # (G, N, D), centred if asked for; their products stay in range
    scale: Tensor | None  # (G, 1, 1), the power of two that was needed for that, if any
    noise: Tensor | float  # (G, 1, 1), the energy that rounding alone can leave


def ready(x: Tensor, center: bool, spread: str | None = None) -> Side:
    """Features ``(G, N, D)`` as a side; ``spread`` as in :func:`cka_with_gradients`."""
    scale = None
    if spread or not _is_safe(x):
        size = torch.maximum(x.amax((-2, -1)), -x.amin((-2, -1)))
        scale = scale_for(all_max_(size) if spread else size)[:, None, None]
    return centered(x, scale, center, spread)


def scale_for(size: Tensor) -> Tensor:
    """The power of two that brings ``size`` below 1, to change no digit; NaN where that is."""
    size = size.clamp(min=torch.finfo(size.dtype).tiny)
    return torch.frexp(size).mantissa / size


def centered(x: Tensor, scale: Tensor | None, center: bool, spread: str | None = None) -> Side:
    """Features ``(G, N, D)`` times a scale, as a side."""
    if scale is not None:
        x = x * scale
    if not center:
        return Side(x, scale, 0.0)
    # The mean first, not H K H: far from the origin the latter cancels digits.
    total, samples = x.sum(-2, keepdim=True), x.shape[-2]
    if spread == "samples":
        all_sum_(total)
        samples *= world_size()
    noise = norm(total).square_()
    if spread == "features":
        all_sum_(noise)
    noise *= (DEAD_RATIO * torch.finfo(x.dtype).eps) ** 2 / samples
    return Side(torch.add(x, total, alpha=-1 / samples), scale, noise)


def _is_safe(x: Tensor) -> bool:
    """Whether no product of ``(G, N, D)`` can leave the range; asked on CPU, where it is cheap.

    Scaling then changes nothing but the time. A dead group, or NaN, is not safe.
    """
    if x.device.type != "cpu":
        return False
    return all(1e-2 < energy < 1e8 for energy in norm(x).flatten().tolist())


def norm(matrix: Tensor) -> Tensor:
    """Frobenius norm ``(G, M, M') -> (G, 1, 1)``; in two levels, or float32 loses digits on CPU."""
    if matrix.shape[-2:].numel() <= _FEW:
        return torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    if matrix.stride(-1) > matrix.stride(-2):
        matrix = matrix.mT  # along memory first
    rows = torch.linalg.vector_norm(matrix, dim=-1, keepdim=True)
    return torch.linalg.vector_norm(rows, dim=-2, keepdim=True)


def inverse(norm: Tensor, noise: Tensor | float) -> Tensor:
    """``1 / norm``, 0 for a dead group; NaN stays NaN."""
    return norm.masked_fill(norm <= noise, torch.inf).reciprocal_()


def live(p: Tensor, q: Tensor) -> Tensor:
    """1 where both sides have energy, else 0, by their :func:`inverse`."""
    return (p * q).sign_()


def factor(scale: Tensor | None, inverse: Tensor, live: Tensor) -> Tensor:
    """What all gradients of a side are multiplied by: 2 / |K|, in its first scale."""
    found = (inverse + inverse) * live
    return found if scale is None else found * scale
