"""Gram matrices of two sides, in a scale that stays in range, and the CKA of the two.

Shapes: G groups, N samples, D features; a number per group is ``(G, 1, 1)``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .collectives import all_max_, all_sum_, world_size

# A group within this many rounding errors of its mean is constant: it holds no relation.
DEAD_RATIO = 8.0
# This many numbers can be added up without losing digits.
_FEW = 1 << 14
# Samples that a Gram matrix grows by at a time, and the number of multiplications that make that
# worthwhile.
_BLOCK = 48
_MANY = 1 << 24


class Side(NamedTuple):
    """Features of one side, or their Gram matrix, and how they were scaled and centred.

    Attributes:
        values: ``(G, N, D)``, centred on request, or ``(G, N, N)``.
        scale: ``(G, 1, 1)``, the power of two that keeps products in range; None if not needed.
        noise: ``(G, 1, 1)``, the energy that rounding alone can leave.
    """

    values: Tensor
    scale: Tensor | None
    noise: Tensor | float


def working_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """Return the type to compute in: float32, or float64 if an input is."""
    return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)


def scale_for(size: Tensor) -> Tensor:
    """Return the power of two that brings ``size`` below 1; it changes no digit. NaN stays NaN."""
    size = size.clamp(min=torch.finfo(size.dtype).tiny)
    return torch.frexp(size).mantissa / size


def standardize(
    x: Tensor, center: bool, spread: str | None = None, scale: Tensor | None = None
) -> Side:
    """Bring features ``(G, N, D)`` into a safe scale, and centre them on request.

    Args:
        x: float32 or float64.
        center: subtract the mean over the samples.
        spread: see :func:`~pcka.core.closed_form.cka_with_gradients`.
        scale: ``(G, 1, 1)`` to multiply by; None computes one if x needs it.
    """
    if scale is None and (spread or not _is_safe(x)):
        size = torch.maximum(x.amax((-2, -1)), -x.amin((-2, -1)))
        scale = scale_for(all_max_(size) if spread else size)[:, None, None]
    if scale is not None:
        x = x * scale
    if not center:
        return Side(x, scale, 0.0)
    # Subtract the mean before the products, because H K H loses digits far from the origin.
    total, samples = x.sum(-2, keepdim=True), x.shape[-2]
    if spread == "samples":
        all_sum_(total)
        samples *= world_size()
    noise = norm(total).square_()
    if spread == "features":
        all_sum_(noise)
    noise *= (DEAD_RATIO * torch.finfo(x.dtype).eps) ** 2 / samples
    return Side(torch.add(x, total, alpha=-1 / samples), scale, noise)


def gram_matrix(side: Side) -> Side:
    """Return ``K = X X^T (G, N, N)`` of a side; a CPU computes little more than half of it."""
    x = side.values
    n = x.shape[-2]
    if x.device.type != "cpu" or n < 1.5 * _BLOCK or n * x.numel() < _MANY:
        return side._replace(values=torch.bmm(x, x.mT))
    gram = x.new_empty(len(x), n, n)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        torch.bmm(x[:, start:stop], x[:, :stop].mT, out=gram[:, start:stop, :stop])
        gram[:, :start, start:stop] = gram[:, start:stop, :start].mT
    return side._replace(values=gram)


class GramPair:
    """CKA of two Gram matrices, and the operators that make gradients of features.

    Args:
        x, y: :func:`gram_matrix` of both sides; the matrices are overwritten.
        debiased, spread: see :func:`~pcka.core.closed_form.cka_with_gradients`.

    Attributes:
        value: CKA ``(G, 1, 1)``.
        inverses: ``1 / |K|`` and ``1 / |L|``, ``(G, 1, 1)``; 0 for a dead group.
        live: ``(G, 1, 1)``, 1 where both sides have energy, else 0.
    """

    def __init__(self, x: Side, y: Side, debiased: bool, spread: str | None = None):
        self.inverses = []
        for matrix, _, noise in (x, y):
            if spread:
                all_sum_(matrix)
            if debiased:
                noise = rounding(matrix) + noise
                _u_center_(matrix)
            self.inverses.append(inverse(norm(matrix), noise))
            matrix.mul_(self.inverses[-1])
        self.live = live(*self.inverses)
        self._scales, self._first = (x.scale, y.scale), x.values
        # T1 of docs/theory.md keeps all digits of 1 - CKA where the sides agree; <K, L> does not.
        self._difference = y.values.sub_(x.values)
        self._distance = norm(self._difference).square_()
        # Multiplied and not filled, so that NaN on the live side stays NaN.
        value = torch.addcmul(self.live, self._distance, self.live, value=-0.5)
        self.value = value.clamp_(-1.0 if debiased else 0.0, 1.0)

    def gradient_operator(self, side: int) -> Tensor:
        """Return ``(2/p) (L/q - CKA K/p)``, ``(G, N, N)``, which times X is the gradient of X.

        For side 1 the roles of K and L are exchanged.
        """
        # L/q - CKA K/p = difference + distance/2 K/p, and with the sides exchanged:
        operator = self._difference if side == 0 else self._difference * (self._distance / 2 - 1)
        operator = torch.addcmul(operator, self._first, self._distance, value=0.5)
        return operator.mul_(factor(self._scales[side], self.inverses[side], self.live))

    def normalized(self, side: int) -> Tensor:
        """Return ``K/|K|`` or ``L/|L|``, ``(G, N, N)``."""
        return self._first if side == 0 else self._difference + self._first


def norm(matrix: Tensor) -> Tensor:
    """Return Frobenius norms, ``(G, M, M') -> (G, 1, 1)``.

    The sum has two levels, because one sum over many float32 numbers loses digits on a CPU.
    """
    if matrix.shape[-2:].numel() <= _FEW:
        return torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    if matrix.stride(-1) > matrix.stride(-2):
        matrix = matrix.mT  # so that the first sum runs along memory
    rows = torch.linalg.vector_norm(matrix, dim=-1, keepdim=True)
    return torch.linalg.vector_norm(rows, dim=-2, keepdim=True)


def inverse(norm: Tensor, noise: Tensor | float) -> Tensor:
    """Return ``1 / norm``, 0 for a dead group; NaN stays NaN."""
    return norm.masked_fill(norm <= noise, torch.inf).reciprocal_()


def live(p: Tensor, q: Tensor) -> Tensor:
    """Return 1 where both sides have energy, else 0, from their :func:`inverse`."""
    return (p * q).sign_()


def factor(scale: Tensor | None, inverse: Tensor, live: Tensor) -> Tensor:
    """Return the factor of all gradients of a side: 2 / |K|, in the scale of the input."""
    found = (inverse + inverse) * live
    return found if scale is None else found * scale


def rounding(gram: Tensor) -> Tensor:
    """Return the energy that rounding can leave beside a Gram matrix's diagonal, ``(G, 1, 1)``."""
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    return DEAD_RATIO * torch.finfo(gram.dtype).eps * trace


def _is_safe(x: Tensor) -> bool:
    """Return whether no product of ``(G, N, D)`` can leave the range.

    Only a CPU asks, where the answer is cheap: scaling safe features would cost time and change
    nothing. A dead group, or NaN, is not safe.
    """
    if x.device.type != "cpu":
        return False
    return all(1e-2 < energy < 1e8 for energy in norm(x).flatten().tolist())


def _u_center_(gram: Tensor) -> None:
    """U-centre Gram matrices ``(G, N, N)`` in place (Szekely and Rizzo 2014).

    U K has no diagonal, and its rows sum to zero. <U K, U L> is n (n - 3) times the unbiased HSIC
    of Song et al. 2012. U is an orthogonal projection, so T1 and the gradient hold unchanged.
    """
    n = gram.shape[-1]
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal.zero_()
    rows = gram.sum(-1, keepdim=True) / (n - 2)
    half = rows.sum(-2, keepdim=True) / (2 * (n - 1))
    gram -= rows - half
    gram -= (rows - half).mT
    diagonal.zero_()
