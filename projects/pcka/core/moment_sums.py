"""The three products whose ratio is CKA, between every layer of one list and of another.

Letters: N samples, Dx and Dy features of a layer, Lx and Ly layers of the two lists. Features are
centred, so a product is ``<K, L>`` of the centred Gram matrices; debiased, it is ``N (N - 3)``
times the unbiased HSIC of Song et al. 2012 (equation 5). Everything is float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Products(NamedTuple):
    """Products of layers with each other, ``(Lx, Ly)``, and with themselves."""

    xy: Tensor
    xx: Tensor
    yy: Tensor

    def cka(self) -> Tensor:
        """Return CKA ``(Lx, Ly)``; NaN where a layer is constant."""
        return self.xy / (self.xx.sqrt()[:, None] * self.yy.sqrt())


def all_products(xs: Sequence[Tensor], ys: Sequence[Tensor], *, debiased: bool) -> Products:
    """Return the products of layers whose samples are all here.

    Args:
        xs, ys: ``(N, Dx)`` and ``(N, Dy)`` of each layer.
        debiased: needs N >= 4.
    """
    if max(x.shape[1] for x in (*xs, *ys)) > len(xs[0]):
        return _by_gram_matrices(xs, ys, debiased)
    sums = MomentSums()
    sums.add(xs, ys)
    return sums.products(debiased=debiased)


def _by_gram_matrices(xs: Sequence[Tensor], ys: Sequence[Tensor], debiased: bool) -> Products:
    """Form the products of layers with more features than samples: ``(Lx + Ly) N^2`` numbers."""
    K, L = (torch.stack([_gram(f, debiased) for f in side]) for side in (xs, ys))  # (Lx, N, N)
    xy = K.flatten(1) @ L.flatten(1).T
    xx, yy = K.square().sum((1, 2)), L.square().sum((1, 2))
    if debiased:
        n = len(xs[0])
        r, s = K.sum(2), L.sum(2)  # (Lx, N)
        t, u = r.sum(1), s.sum(1)
        a, b = 2 / (n - 2), 1 / ((n - 1) * (n - 2))
        xy = xy - a * r @ s.T + b * torch.outer(t, u)
        xx, yy = (g - a * v.square().sum(1) + b * w**2 for g, v, w in ((xx, r, t), (yy, s, u)))
    return Products(xy, xx, yy)


def _gram(x: Tensor, debiased: bool) -> Tensor:
    x = x.to(torch.float64, copy=True)
    x -= x.mean(0)
    gram = x @ x.T
    return gram.fill_diagonal_(0) if debiased else gram


class MomentSums:
    """The products over all samples, from sums that grow batch by batch.

    The sums take ``Dx^2`` numbers per layer and ``Dx Dy`` per pair of layers.
    """

    def __init__(self):
        self.samples = 0
        self._origin: list[list[Tensor]] | None = None
        self._sums: dict[tuple, list[Tensor]] = {}

    def add(self, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> None:
        """Add a batch ``(N, Dx)``, ``(N, Dy)`` of each layer; nothing of it is kept."""
        sides = [[f.double() for f in features] for features in (xs, ys)]
        if self._origin is None:
            # Sums are taken about a point near the mean, because far from it they lose digits.
            self._origin = [[f.mean(0) for f in side] for side in sides]
        # Features (N, D) and their squared lengths (N,), the diagonal of the Gram matrix.
        rows, columns = (
            [(f - o, (f - o).square().sum(1)) for f, o in zip(side, origin, strict=True)]
            for side, origin in zip(sides, self._origin, strict=True)
        )
        for name, layers in (("x", rows), ("y", columns)):
            for i, layer in enumerate(layers):
                self._accumulate((name, i), [layer[0].sum(0), layer[1].sum()])
                self._accumulate((name + name, i), _moments(layer, layer))
        for i, x in enumerate(rows):
            for j, y in enumerate(columns):
                self._accumulate(("xy", i, j), _moments(x, y))
        self.samples += len(xs[0])

    def _accumulate(self, key: tuple, new: list[Tensor]) -> None:
        if key in self._sums:
            for total, value in zip(self._sums[key], new, strict=True):
                total += value
        else:
            self._sums[key] = new

    def products(self, *, debiased: bool) -> Products:
        """Return the products over all samples so far."""
        sums = self._sums
        rows, columns = (sum(key[0] == side for key in sums) for side in "xy")

        def product(u: tuple, v: tuple, uv: tuple) -> Tensor:
            return _product(sums[u], sums[v], sums[uv], self.samples, debiased)

        xx, yy = (
            torch.stack([product((s, i), (s, i), (s + s, i)) for i in range(count)])
            for s, count in (("x", rows), ("y", columns))
        )
        xy = torch.stack(
            [product(("x", i), ("y", j), ("xy", i, j)) for i in range(rows) for j in range(columns)]
        )
        return Products(xy.view(rows, columns), xx, yy)


def _moments(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return sums over the samples of products of two layers."""
    (u, a), (v, b) = x, y
    return [u.T @ v, a @ v, b @ u, a @ b]


def _product(u, v, uv, n: int, debiased: bool) -> Tensor:
    """Return ``<K, L>`` of two layers from their sums about any one point: -> ()."""
    (sum_u, energy_u), (sum_v, energy_v) = u, v
    moments, a_v, b_u, a_b = uv
    mu, nu = sum_u / n, sum_v / n
    product = (moments - n * torch.outer(mu, nu)).square().sum()
    if not debiased:
        return product
    # Diagonals about the mean: |x - mu|^2 = a - 2 x mu + |mu|^2.
    m, k = mu @ mu, nu @ nu
    diagonals = (
        a_b
        - 2 * (a_v @ nu + b_u @ mu)
        + k * energy_u
        + m * energy_v
        + 4 * (mu @ moments @ nu)
        - 3 * n * m * k
    )
    energies = (energy_u - n * m) * (energy_v - n * k)
    return product - diagonals * n / (n - 2) + energies / ((n - 1) * (n - 2))
