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


class Comparison:
    """CKA of two Gram matrices, and what pulls at the features of each side (0: x, 1: y).

    Args:
        x, y: their matrices are overwritten.
        debiased, spread: as of :func:`~pcka.core.closed_form.cka_with_gradients`.
    """

    def __init__(self, x: Gram, y: Gram, debiased: bool, spread: str | None = None):
        self._sides, self._lowest, self.inverses = (x, y), -1.0 if debiased else 0.0, []
        for matrix, _, noise in (x, y):
            if spread:
                all_sum_(matrix)
            if debiased:
                noise = rounding(matrix) + noise
                _u_center_(matrix)
            self.inverses.append(inverse(norm(matrix), noise))
            matrix.mul_(self.inverses[-1])
        self.live = live(*self.inverses)
        # By T1 rather than <K, L>: it keeps all digits of 1 - CKA where the two agree.
        self._difference = y.matrix.sub_(x.matrix)
        self._distance = norm(self._difference).square_()

    def value(self) -> Tensor:
        """CKA ``(G, 1, 1)``."""
        # (1 - distance / 2) live: a product, not a fill, so that NaN on the live side stays NaN.
        value = torch.addcmul(self.live, self._distance, self.live, value=-0.5)
        return value.clamp_(self._lowest, 1.0)

    def factor(self, side: int) -> Tensor:
        """See :func:`~pcka.core.sides.factor`."""
        return factor(self._sides[side].scale, self.inverses[side], self.live)

    def pull(self, side: int) -> Tensor:
        """``(G, N, N)``: times the features of a side it is their gradient."""
        # L/q - CKA K/p = difference + distance/2 K/p, and with the sides exchanged:
        pull = self._difference if side == 0 else self._difference * (self._distance / 2 - 1)
        pull = torch.addcmul(pull, self._sides[0].matrix, self._distance, value=0.5)
        return pull.mul_(self.factor(side))

    def unit(self, side: int) -> Tensor:
        """K/p or L/q, ``(G, N, N)``."""
        k = self._sides[0].matrix
        return k if side == 0 else self._difference + k


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
