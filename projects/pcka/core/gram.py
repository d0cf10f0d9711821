"""Gram matrices over the samples, and what CKA makes of two of them.

Shapes: G groups, N samples, D features; a number per group is ``(G, 1, 1)``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .distributed import all_sum_
from .sides import DEAD_RATIO, Side, factor, inverse, live, norm

# Samples that a Gram matrix grows by at a time, and the multiplications from which that pays.
_BLOCK = 48
_MANY = 1 << 24


class Gram(NamedTuple):
    matrix: Tensor  # (G, N, N), of the features of a side
    scale: Tensor | None  # these two as of the side
    noise: Tensor | float


def gram_of(side: Side) -> Gram:
    """``K = X X^T``."""
    return Gram(_products(side.features), side.scale, side.noise)


def pulls(
    x: Gram, y: Gram, debiased: bool, needs: tuple[bool, bool], spread: str | None = None
) -> tuple[Tensor, list[Tensor | None]]:
    """CKA ``(G,)`` of two Gram matrices, and what pulls at the features of each side.

    The gradient of a side is its pull ``(G, N, N)`` times its features. The matrices are
    overwritten.
    """
    units, inverses = [], []
    for side in (x, y):
        matrix, noise = side.matrix, side.noise
        if spread:
            all_sum_(matrix)
        if debiased:
            noise = rounding(matrix) + noise
            _u_center_(matrix)
        inverses.append(inverse(norm(matrix), noise))
        units.append(matrix.mul_(inverses[-1]))
    # By T1 rather than <K, L>: it keeps all digits of 1 - CKA where the two agree.
    k = units[0]
    difference = units[1].sub_(k)
    distance = norm(difference).square_()
    alive = live(*inverses)
    # (1 - distance / 2) alive: a product, not a fill, so that NaN on the live side stays NaN.
    value = torch.addcmul(alive, distance, alive, value=-0.5)
    found = [None, None]
    for i, side in enumerate((x, y)):
        if needs[i]:
            # L/q - CKA K/p = difference + distance/2 K/p, and with the sides exchanged:
            pull = difference if i == 0 else difference * (distance / 2 - 1)
            pull = torch.addcmul(pull, k, distance, value=0.5)
            found[i] = pull.mul_(factor(side.scale, inverses[i], alive))
    return value.clamp_(-1.0 if debiased else 0.0, 1.0).flatten(), found


def _products(x: Tensor) -> Tensor:
    """``(G, N, D) -> X X^T (G, N, N)``; on CPU with little more than half the work, by symmetry."""
    n = x.shape[-2]
    if x.device.type != "cpu" or n < 1.5 * _BLOCK or n * x.numel() < _MANY:
        return torch.bmm(x, x.mT)
    gram = x.new_empty(len(x), n, n)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        torch.bmm(x[:, start:stop], x[:, :stop].mT, out=gram[:, start:stop, :stop])
        gram[:, :start, start:stop] = gram[:, start:stop, :start].mT
    return gram


def rounding(gram: Tensor) -> Tensor:
    """What rounding can leave of a Gram matrix without its diagonal."""
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    return DEAD_RATIO * torch.finfo(gram.dtype).eps * trace


def _u_center_(gram: Tensor) -> Tensor:
    """Gram matrices ``(G, N, N)``, U-centred in place (Szekely and Rizzo 2014).

    Without its diagonal, and with rows that sum to zero: <U K, U L> is n (n - 3) times the
    unbiased HSIC of Song et al. 2012. U is an orthogonal projection, so T1 and the gradient
    hold as they stand.
    """
    n = gram.shape[-1]
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal.zero_()
    rows = gram.sum(-1, keepdim=True) / (n - 2)
    half = rows.sum(-2, keepdim=True) / (2 * (n - 1))
    gram -= rows - half
    gram -= (rows - half).mT
    diagonal.zero_()
    return gram
