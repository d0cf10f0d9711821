"""CKA of whole data sets, accumulated batch by batch, for analysis."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .moment_sums import MomentSums, Products, all_products


class CKAMatrix:
    """CKA between every layer of one list and of another, over all samples ``update`` has seen.

    The result is the CKA of all samples at once, in float64, for any split into batches, because
    CKA needs only sums over samples of products of features. These take ``Dx^2`` numbers per layer
    and ``Dx Dy`` per pair, so average large maps over their cells first, or take
    ``minibatch=True``. That keeps one number per layer and per pair, the sums of the unbiased HSIC
    of each batch (Nguyen et al. 2021). It is an estimate whose products have no bias, and needs 4
    samples or more in each batch.

    Args:
        debiased: use the unbiased HSIC (N >= 4), else CKA as defined. Always centred.
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
        self._shapes: tuple[list[int], list[int]] | None = None
        self._moments = MomentSums()
        self._total: Products | None = None

    @torch.no_grad()
    def update(self, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> None:
        """Add a batch ``(N, Dx)``, ``(N, Dy)`` of each layer; nothing of it is kept.

        Raises:
            ValueError: other shapes, or other layers than before.
        """
        self._check(xs, ys)
        if self.minibatch:
            new = all_products(xs, ys, debiased=True)
            # N (N - 3) times the HSIC, over N - 3, so that a batch counts by its samples.
            weighted = [value / (len(xs[0]) - 3) for value in new]
            if self._total is not None:
                weighted = [a + b for a, b in zip(self._total, weighted, strict=True)]
            self._total = Products(*weighted)
        else:
            self._moments.add(xs, ys)
        self.samples += len(xs[0])

    def compute(self) -> Tensor:
        """Return the CKA of all samples so far, ``(Lx, Ly)`` float64; NaN for constant layers."""
        if self.samples < (4 if self.debiased else 2):
            raise ValueError(f"CKA of {self.samples} samples is undefined: too few were seen")
        products = self._total or self._moments.products(debiased=self.debiased)
        return products.cka()

    def _check(self, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> None:
        layers = [*xs, *ys]
        samples = {len(f) if f.dim() == 2 else 0 for f in layers}
        if not xs or not ys or len(samples) != 1 or 0 in samples:
            raise ValueError(
                "CKA needs (N, Dx) and (N, Dy) of the same samples, got "
                f"{[tuple(x.shape) for x in xs]} and {[tuple(y.shape) for y in ys]}"
            )
        if self.minibatch and len(xs[0]) < 4:
            raise ValueError(f"a minibatch needs 4 samples or more, got {tuple(xs[0].shape)}")
        shapes = [x.shape[1] for x in xs], [y.shape[1] for y in ys]
        if self._shapes not in (None, shapes):
            raise ValueError(f"layers of {shapes} features after layers of {self._shapes}")
        self._shapes = shapes


class CKAMeter:
    """CKA between two layers over all samples that ``update`` has seen.

    ::

        meter = CKAMeter()
        for images in loader:
            meter.update(student(images).flatten(1), teacher(images).flatten(1))
        meter.compute()

    The arguments are those of :class:`CKAMatrix`, of which this is one entry.
    """

    def __init__(self, *, debiased: bool = True, minibatch: bool = False):
        self._matrix = CKAMatrix(debiased=debiased, minibatch=minibatch)

    @property
    def samples(self) -> int:
        return self._matrix.samples

    def reset(self) -> None:
        """Forget all samples."""
        self._matrix.reset()

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch ``(N, Dx)``, ``(N, Dy)``; nothing of it is kept."""
        self._matrix.update([x], [y])

    def compute(self) -> float:
        """Return the CKA of all samples so far; NaN where a side is constant."""
        return self._matrix.compute().item()
