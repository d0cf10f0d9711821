"""CKA together with its gradient, in closed form: with sides.py and gram.py all of the arithmetic.

With centred features X, Y, Gram matrices ``K = X X^T``, ``L = Y Y^T`` and their norms p, q::

    1 - CKA  = 1/2 |K/p - L/q|^2                               (T1 of docs/theory.md)
    dCKA/dX  = (2/p) (L/q - CKA K/p) X

or, over the features instead of the samples, with ``A = X^T X``, ``B = Y^T Y``, ``C = X^T Y``::

    CKA      = |C|^2 / (|A| |B|)
    dCKA/dX  = 2 (Y C^T / (|A| |B|) - CKA X A / |A|^2)

Neither centring nor a change of scale needs a backward of its own: the columns of the gradient
sum to zero, and it is orthogonal to X. So value and gradient come out of one pass.

Shapes: G groups, N samples, D features (Dx, Dy); a number per group is ``(G, 1, 1)``.
"""

import torch
from torch import Tensor

from .distributed import all_sum_, world_size
from .gram import Comparison, gram_of, rounding
from .sides import Side, factor, inverse, live, norm, ready


def cka_with_gradients(
    x: Tensor,
    y: Tensor,
    *,
    center: bool,
    debiased: bool = False,
    needs: tuple[bool, bool] = (True, False),
    spread: str | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """CKA of each group and its gradients.

    Args:
        x, y: ``(G, N, Dx)``, ``(G, N, Dy)`` of one floating type, float32 or float64.
        center: subtract the mean over the samples.
        debiased: unbiased HSIC in place of the Frobenius products; N >= 4.
        needs: whether to form the gradient of x and of y.
        spread: the axis that all processes share, each holding an equal part of it:
            ``"features"``, ``"samples"``, or None for what is here alone.

    Returns:
        CKA ``(G,)``, and the gradients ``(G, N, Dx)``, ``(G, N, Dy)`` or None.
    """
    sides = ready(x, center, spread), ready(y, center, spread)
    if spread == "features" or (spread is None and samples_pay(*x.shape[-2:], y.shape[-1], needs)):
        return over_samples(*sides, debiased, needs, spread)
    return over_features(*sides, debiased, needs, spread)


def uncentred_both_ways(
    x: Tensor,
    y: Tensor,
    *,
    share: float,
    needs: tuple[bool, bool] = (True, False),
    spread: str | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As :func:`cka_with_gradients`, with a share of the CKA over the features in the result.

    Over the features the norms are the same, ``|X^T X| = |K|``, so with ``E = X Y^T``::

        CKA      = |E|^2 / (p q)
        dCKA/dX  = (2/p) (E Y / q - CKA K X / p)

    Args:
        x, y: ``(G, N, D)``.
        share: in [0, 1], the rest being the CKA over the samples.
        spread: ``"features"`` or None.
    """
    sides = ready(x, False, spread), ready(y, False, spread)
    both = Comparison(*map(gram_of, sides), False, spread)
    cross = torch.bmm(sides[0].features, sides[1].features.mT)
    if spread:
        all_sum_(cross)
    inter = norm(cross).square() * both.inverses[0] * both.inverses[1] * both.live
    value = (1 - share) * both.value() + share * inter.clamp(0, 1)
    gradients = [None, None]
    for i in (0, 1):
        if needs[i]:
            common = share * both.factor(i)
            pull = both.pull(i).mul_(1 - share)
            pull.addcmul_(both.unit(i), common * inter, value=-1)
            toward = (cross if i == 0 else cross.mT) * (common * both.inverses[1 - i])
            gradients[i] = torch.bmm(pull, sides[i].features)
            gradients[i].baddbmm_(toward, sides[1 - i].features)
    return value.flatten(), *gradients


def samples_pay(n: int, dx: int, dy: int, needs: tuple[bool, bool]) -> bool:
    """Whether products over N samples take fewer multiplications than over Dx and Dy features."""
    # Per sample, of the matrices and of the gradients.
    over_samples = n * (dx * (1 + needs[0]) + dy * (1 + needs[1]))
    over_features = dx * dx * (1 + needs[0]) + dy * dy * (1 + needs[1]) + dx * dy * (1 + sum(needs))
    return over_samples <= over_features


def over_samples(x: Side, y: Side, debiased, needs, spread):
    """By the N x N Gram matrices."""
    both = Comparison(gram_of(x), gram_of(y), debiased, spread)
    return both.value().flatten(), *(
        torch.bmm(both.pull(i), side.features) if needs[i] else None
        for i, side in enumerate((x, y))
    )


def over_features(x: Side, y: Side, debiased, needs, spread):
    """By the Dx x Dx, Dy x Dy and Dx x Dy matrices of products over the samples."""

    def total(t: Tensor) -> Tensor:
        return all_sum_(t) if spread else t

    n = x.features.shape[-2] * (world_size() if spread else 1)
    cross = total(x.features.mT @ y.features)
    alignment = norm(cross).square()
    own = [total(side.features.mT @ side.features) for side in (x, y)]
    norms = [norm(gram) for gram in own]
    noises = [x.noise, y.noise]

    def sum_samples(d: Tensor) -> Tensor:
        return total(d.sum(-2, keepdim=True))

    def correction(d: Tensor, e: Tensor) -> Tensor:
        """From <K, L> of centred features to n (n - 3) times the unbiased HSIC."""
        products, sums = sum_samples(d * e), sum_samples(d) * sum_samples(e)
        return sums / ((n - 1) * (n - 2)) - products * n / (n - 2)

    def slope(d: Tensor) -> Tensor:
        return sum_samples(d) / ((n - 1) * (n - 2)) - d * n / (n - 2)

    if debiased:
        # (G, N, 1), the diagonals of K and L.
        energies = [side.features.square().sum(-1, keepdim=True) for side in (x, y)]
        alignment = alignment + correction(*energies)
        squares = [p.square() + correction(d, d) for p, d in zip(norms, energies, strict=True)]
        norms = [square.clamp(min=0).sqrt() for square in squares]
        noises = [t + rounding(gram) for t, gram in zip(noises, own, strict=True)]
    inverses = [inverse(p, noise) for p, noise in zip(norms, noises, strict=True)]
    alive = live(*inverses)
    value = alignment * inverses[0] * inverses[1] * alive
    gradients = [None, None]
    for i, (side, other, need) in enumerate(((x, y, needs[0]), (y, x, needs[1]))):
        if not need:
            continue
        common = factor(side.scale, inverses[i], alive)
        toward, away = common * inverses[1 - i], common * inverses[i] * value
        gradient = other.features @ ((cross.mT if i == 0 else cross) * toward)
        gradient -= side.features @ (own[i] * away)
        if debiased:
            rate = slope(energies[1 - i]) * toward - slope(energies[i]) * away
            diagonal = side.features * rate
            gradient += diagonal - sum_samples(diagonal) / n
        gradients[i] = gradient
    return value.clamp(-1.0 if debiased else 0.0, 1.0).flatten(), *gradients
