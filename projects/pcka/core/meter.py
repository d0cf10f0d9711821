"""CKA of whole data sets, batch by batch, for analysis."""

import torch
from torch import Tensor


class CKAMeter:
    """CKA between two layers over all samples that ``update`` has seen.

    ::

        meter = CKAMeter()
        for images in loader:
            meter.update(student(images).flatten(1), teacher(images).flatten(1))
        meter.compute()

    The result is that of all samples at once, in float64, however they were split: what CKA
    needs of them are sums over samples of products of features. These take
    ``Dx^2 + Dy^2 + Dx Dy`` numbers, so average large maps over their cells first, or take
    ``minibatch=True``: it keeps three numbers, the sums of the unbiased HSIC of each batch
    (Nguyen et al. 2021). That is an estimate, but one without bias of its products; each batch
    then needs 4 samples or more.

    Args:
        debiased: by the unbiased HSIC (N >= 4), else CKA as defined. Always centred.
        minibatch: average over batches instead of accumulating over samples; implies debiased.
    """

    def __init__(self, *, debiased: bool = True, minibatch: bool = False):
        if minibatch and not debiased:
            raise ValueError("the average over minibatches is debiased: leave debiased=True")
        self.debiased = debiased
        self.minibatch = minibatch
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self.samples = 0
        self._sums: dict[str, Tensor] = {}
        self._origin: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch ``(N, Dx)``, ``(N, Dy)``; nothing of it is kept."""
        if x.dim() != 2 or y.dim() != 2 or len(x) != len(y) or len(x) == 0:
            raise ValueError(
                f"CKAMeter needs (N, Dx) and (N, Dy), got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        if self.minibatch and len(x) < 4:
            raise ValueError(f"a minibatch needs 4 samples or more, got {tuple(x.shape)}")
        x, y = x.detach().double(), y.detach().double()
        if self.minibatch:
            new = dict(zip(("xy", "xx", "yy"), _unbiased_products(x, y), strict=True))
        else:
            if self._origin is None:
                # Sums about a point near the mean: far from it they would cancel digits.
                self._origin = x.mean(0), y.mean(0)
            new = _sums(x - self._origin[0], y - self._origin[1])
        for name, value in new.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self.samples += len(x)

    def compute(self) -> float:
        """CKA of all samples so far; NaN where a side is constant."""
        if self.samples < (4 if self.debiased else 2):
            raise ValueError(f"CKAMeter has seen {self.samples} samples: too few for CKA")
        if self.minibatch:
            xy, xx, yy = (self._sums[name] for name in ("xy", "xx", "yy"))
        else:
            xy, xx, yy = _products(self._sums, self.samples, self.debiased)
        return (xy / (xx.sqrt() * yy.sqrt())).item()


def _unbiased_products(x: Tensor, y: Tensor) -> list[Tensor]:
    """HSIC of (x, y), (x, x), (y, y), unbiased, times the number of samples."""
    n = len(x)
    sums = _products(_sums(x - x.mean(0), y - y.mean(0)), n, True)
    return [s / (n - 3) for s in sums]


def _sums(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """All sums over samples that the three products consist of."""
    a, b = x.square().sum(1), y.square().sum(1)  # (N,), the diagonals of K and L
    return {
        "x": x.sum(0),
        "y": y.sum(0),
        "xy": x.T @ y,
        "xx": x.T @ x,
        "yy": y.T @ y,
        "a": a.sum(),
        "b": b.sum(),
        "ab": a @ b,
        "aa": a @ a,
        "bb": b @ b,
        "ax": a @ x,
        "ay": a @ y,
        "bx": b @ x,
        "by": b @ y,
    }


def _products(s: dict[str, Tensor], n: int, debiased: bool) -> list[Tensor]:
    """<K, L>, <K, K>, <L, L> of the centred features; debiased: n (n - 3) times the HSIC."""
    results = []
    for u, v, p, q in (("x", "y", "a", "b"), ("x", "x", "a", "a"), ("y", "y", "b", "b")):
        mu, nu = s[u] / n, s[v] / n
        moments = s[u + v]
        product = (moments - n * torch.outer(mu, nu)).square().sum()
        if debiased:
            # Diagonals about the mean: |x - mu|^2 = a - 2 x mu + |mu|^2.
            m, k = mu @ mu, nu @ nu
            energy, other = s[p] - n * m, s[q] - n * k
            both = (
                s[p + q]
                - 2 * (s[p + v] @ nu + s[q + u] @ mu)
                + k * s[p]
                + m * s[q]
                + 4 * (mu @ moments @ nu)
                - 3 * n * m * k
            )
            product = product - both * n / (n - 2) + energy * other / ((n - 1) * (n - 2))
        results.append(product)
    return results
