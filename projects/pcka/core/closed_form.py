"""CKA together with its gradient, in closed form; all arithmetic is here and in grams.py.

With centred features X, Y, Gram matrices ``K = X X^T``, ``L = Y Y^T`` and their norms p, q::

    1 - CKA  = 1/2 |K/p - L/q|^2                               (T1 of docs/theory.md)
    dCKA/dX  = (2/p) (L/q - CKA K/p) X

or, over the features instead of the samples, with ``A = X^T X``, ``B = Y^T Y``, ``C = X^T Y``::

    CKA      = |C|^2 / (|A| |B|)
    dCKA/dX  = 2 (Y C^T / (|A| |B|) - CKA X A / |A|^2)

Neither centring nor a change of scale needs a backward pass of its own, because the columns of the
gradient sum to zero, and it is orthogonal to X. So one pass computes value and gradient.

Shapes: G groups, N samples, D features (Dx, Dy); a number per group is ``(G, 1, 1)``.
"""

import torch
from torch import Tensor

from .collectives import all_sum_, world_size
from .grams import (
    GramPair,
    Side,
    factor,
    gram_matrix,
    inverse,
    live,
    norm,
    rounding,
    standardize,
)

Needs = tuple[bool, bool]  # whether to form the gradient of x and of y
# CKA (G,), and the gradients (G, N, Dx), (G, N, Dy) or None.
ValueAndGradients = tuple[Tensor, Tensor | None, Tensor | None]


def cka_with_gradients(
    x: Tensor,
    y: Tensor,
    *,
    center: bool,
    debiased: bool = False,
    needs: Needs = (True, False),
    spread: str | None = None,
) -> ValueAndGradients:
    """Compute the CKA of each group and its gradients.

    Args:
        x, y: ``(G, N, Dx)``, ``(G, N, Dy)`` of one floating type, float32 or float64.
        center: subtract the mean over the samples.
        debiased: unbiased HSIC in place of the Frobenius products; N >= 4.
        needs: whether to form the gradient of x and of y.
        spread: the axis that all processes share, each holding an equal part of it:
            ``"features"``, ``"samples"``, or None to use this process's part alone.

    Returns:
        CKA ``(G,)``, and the gradients ``(G, N, Dx)``, ``(G, N, Dy)`` or None.
    """
    sides = standardize(x, center, spread), standardize(y, center, spread)
    by_samples = spread is None and samples_pay(x.shape[-2], x.shape[-1], y.shape[-1], needs)
    if not (by_samples or spread == "features"):
        return over_features(*sides, debiased, needs, spread)
    pair = GramPair(gram_matrix(sides[0]), gram_matrix(sides[1]), debiased, spread)
    gradients = [
        torch.bmm(pair.gradient_operator(i), sides[i].values) if needs[i] else None for i in (0, 1)
    ]
    return pair.value.flatten(), gradients[0], gradients[1]


def uncentred_both_ways(
    x: Tensor,
    y: Tensor,
    *,
    share: float,
    needs: Needs = (True, False),
    spread: str | None = None,
) -> ValueAndGradients:
    """Compute a mixture of the CKA over the samples and over the features, uncentred.

    Over the features the norms are the same, ``|X^T X| = |K|``, so with ``E = X Y^T``::

        CKA      = |E|^2 / (p q)
        dCKA/dX  = (2/p) (E Y / q - CKA K X / p)

    Args:
        x, y: ``(G, N, D)``.
        share: the share of the CKA over the features, in [0, 1].
        needs: see :func:`cka_with_gradients`.
        spread: ``"features"`` or None.
    """
    sides = standardize(x, False, spread), standardize(y, False, spread)
    pair = GramPair(gram_matrix(sides[0]), gram_matrix(sides[1]), False, spread)
    cross = torch.bmm(sides[0].values, sides[1].values.mT)
    if spread:
        all_sum_(cross)
    inter = norm(cross).square() * pair.inverses[0] * pair.inverses[1] * pair.live
    value = (1 - share) * pair.value + share * inter.clamp(0, 1)
    gradients: list[Tensor | None] = [None, None]
    for i in (0, 1):
        if needs[i]:
            common = share * factor(sides[i].scale, pair.inverses[i], pair.live)
            operator = pair.gradient_operator(i).mul_(1 - share)
            operator.addcmul_(pair.normalized(i), common * inter, value=-1)
            toward = (cross if i == 0 else cross.mT) * (common * pair.inverses[1 - i])
            gradient = torch.bmm(operator, sides[i].values)
            gradients[i] = gradient.baddbmm_(toward, sides[1 - i].values)
    return value.flatten(), gradients[0], gradients[1]


def samples_pay(n: int, dx: int, dy: int, needs: Needs) -> bool:
    """Return whether products over N samples take fewer multiplications than over features."""
    # Multiplications per sample, for the matrices and the gradients.
    over_samples = n * (dx * (1 + needs[0]) + dy * (1 + needs[1]))
    over_features = dx * dx * (1 + needs[0]) + dy * dy * (1 + needs[1]) + dx * dy * (1 + sum(needs))
    return over_samples <= over_features


def over_features(
    x: Side, y: Side, debiased: bool, needs: Needs, spread: str | None
) -> ValueAndGradients:
    """Compute CKA by the Dx x Dx, Dy x Dy and Dx x Dy matrices of products over the samples."""

    def total(t: Tensor) -> Tensor:
        return all_sum_(t) if spread else t

    n = x.values.shape[-2] * (world_size() if spread else 1)
    cross = total(x.values.mT @ y.values)
    alignment = norm(cross).square()
    own = [total(side.values.mT @ side.values) for side in (x, y)]
    norms = [norm(gram) for gram in own]
    noises = [x.noise, y.noise]

    def sum_samples(d: Tensor) -> Tensor:
        return total(d.sum(-2, keepdim=True))

    def correction(d: Tensor, e: Tensor) -> Tensor:
        """Return the term that turns <K, L>, if centred, into the unbiased HSIC times N (N - 3)."""
        products, sums = sum_samples(d * e), sum_samples(d) * sum_samples(e)
        return sums / ((n - 1) * (n - 2)) - products * n / (n - 2)

    def slope(d: Tensor) -> Tensor:
        return sum_samples(d) / ((n - 1) * (n - 2)) - d * n / (n - 2)

    if debiased:
        # (G, N, 1), the diagonals of K and L.
        energies = [side.values.square().sum(-1, keepdim=True) for side in (x, y)]
        alignment = alignment + correction(*energies)
        squares = [p.square() + correction(d, d) for p, d in zip(norms, energies, strict=True)]
        norms = [square.clamp(min=0).sqrt() for square in squares]
        noises = [t + rounding(gram) for t, gram in zip(noises, own, strict=True)]
    inverses = [inverse(p, noise) for p, noise in zip(norms, noises, strict=True)]
    alive = live(*inverses)
    value = alignment * inverses[0] * inverses[1] * alive
    gradients: list[Tensor | None] = [None, None]
    for i, (side, other, need) in enumerate(((x, y, needs[0]), (y, x, needs[1]))):
        if not need:
            continue
        common = factor(side.scale, inverses[i], alive)
        toward, away = common * inverses[1 - i], common * inverses[i] * value
        gradient = other.values @ ((cross.mT if i == 0 else cross) * toward)
        gradient -= side.values @ (own[i] * away)
        if debiased:
            rate = slope(energies[1 - i]) * toward - slope(energies[i]) * away
            diagonal = side.values * rate
            gradient += diagonal - sum_samples(diagonal) / n
        gradients[i] = gradient
    value = value.clamp(-1.0 if debiased else 0.0, 1.0).flatten()
    return value, gradients[0], gradients[1]
