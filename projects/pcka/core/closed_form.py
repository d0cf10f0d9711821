"""CKA together with its gradient, in closed form: all of the arithmetic of this package.

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

from typing import NamedTuple

import torch
from torch import Tensor

from .distributed import all_max_, all_sum_, world_size

# A group within this many rounding errors of its mean holds no relation at all.
_DEAD_RATIO = 8.0
# So few numbers are added up without losing digits.
_FEW = 1 << 14
# Samples that a Gram matrix grows by at a time, and the multiplications from which that pays.
_BLOCK = 48
_MANY = 1 << 24


class _Side(NamedTuple):
    features: Tensor  # (G, N, D), centred if asked for; their products stay in range
    scale: Tensor | None  # (G, 1, 1), the power of two that was needed for that, if any
    noise: Tensor | float  # (G, 1, 1), the energy that rounding alone can leave


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
    (n, dx), dy = x.shape[-2:], y.shape[-1]
    # Multiplications per sample of the Gram matrices and of the gradients, either way.
    over_samples = n * (dx * (1 + needs[0]) + dy * (1 + needs[1]))
    over_features = dx * dx * (1 + needs[0]) + dy * dy * (1 + needs[1]) + dx * dy * (1 + sum(needs))
    sides = _ready(x, center, spread), _ready(y, center, spread)
    if spread == "features" or (spread is None and over_samples <= over_features):
        return _over_samples(*sides, debiased, needs, spread)
    return _over_features(*sides, debiased, needs, spread)


def _ready(x: Tensor, center: bool, spread: str | None) -> _Side:
    """``(G, N, D)`` -> centred and scaled, so that no product leaves the range of the type."""
    scale = None
    if spread or not _is_safe(x):
        size = torch.maximum(x.amax((-2, -1)), -x.amin((-2, -1)))
        if spread:
            all_max_(size)
        # A power of two changes no digit; NaN where the size is.
        size = size.clamp(min=torch.finfo(x.dtype).tiny)
        scale = (torch.frexp(size).mantissa / size)[:, None, None]
        x = x * scale
    if not center:
        return _Side(x, scale, 0.0)
    # The mean first, not H K H: far from the origin the latter cancels digits.
    total, samples = x.sum(-2, keepdim=True), x.shape[-2]
    if spread == "samples":
        all_sum_(total)
        samples *= world_size()
    noise = _norm(total).square_()
    if spread == "features":
        all_sum_(noise)
    noise *= (_DEAD_RATIO * torch.finfo(x.dtype).eps) ** 2 / samples
    return _Side(torch.add(x, total, alpha=-1 / samples), scale, noise)


def _is_safe(x: Tensor) -> bool:
    """Whether no product of ``(G, N, D)`` can leave the range; asked on CPU, where it is cheap.

    Scaling then changes nothing but the time. A dead group, or NaN, is not safe.
    """
    if x.device.type != "cpu":
        return False
    return all(1e-2 < norm < 1e8 for norm in _norm(x).flatten().tolist())


def _over_samples(x: _Side, y: _Side, debiased, needs, spread):
    """By the N x N Gram matrices."""
    units, inverses = [], []
    for side in (x, y):
        gram = _gram(side.features)
        if spread:
            all_sum_(gram)
        noise = side.noise
        if debiased:
            noise = _rounding(gram) + noise
            _u_center_(gram)
        inverses.append(_inverse(_norm(gram), noise))
        units.append(gram.mul_(inverses[-1]))
    # By T1 rather than <K, L>: it keeps all digits of 1 - CKA where the two agree.
    k = units[0]
    difference = units[1].sub_(k)
    distance = _norm(difference).square_()
    live = _live(*inverses)
    # (1 - distance / 2) live: a product, not a fill, so that NaN on the live side stays NaN.
    value = torch.addcmul(live, distance, live, value=-0.5)
    gradients = [None, None]
    for i, side in enumerate((x, y)):
        if needs[i]:
            # L/q - CKA K/p = difference + distance/2 K/p, and with the sides exchanged:
            pull = difference if i == 0 else difference * (distance / 2 - 1)
            pull = torch.addcmul(pull, k, distance, value=0.5)
            pull.mul_(_factor(side, inverses[i], live))
            gradients[i] = torch.bmm(pull, side.features)
    return value.clamp_(-1.0 if debiased else 0.0, 1.0).flatten(), *gradients


def _over_features(x: _Side, y: _Side, debiased, needs, spread):
    """By the Dx x Dx, Dy x Dy and Dx x Dy matrices of products over the samples."""

    def total(t: Tensor) -> Tensor:
        return all_sum_(t) if spread else t

    n = x.features.shape[-2] * (world_size() if spread else 1)
    cross = total(x.features.mT @ y.features)
    alignment = _norm(cross).square()
    own = [total(side.features.mT @ side.features) for side in (x, y)]
    norms = [_norm(gram) for gram in own]
    noises = [x.noise, y.noise]

    def over_samples(d: Tensor) -> Tensor:
        return total(d.sum(-2, keepdim=True))

    def correction(d: Tensor, e: Tensor) -> Tensor:
        """From <K, L> of centred features to n (n - 3) times the unbiased HSIC."""
        products, sums = over_samples(d * e), over_samples(d) * over_samples(e)
        return sums / ((n - 1) * (n - 2)) - products * n / (n - 2)

    def slope(d: Tensor) -> Tensor:
        return over_samples(d) / ((n - 1) * (n - 2)) - d * n / (n - 2)

    if debiased:
        # (G, N, 1), the diagonals of K and L.
        energies = [side.features.square().sum(-1, keepdim=True) for side in (x, y)]
        alignment = alignment + correction(*energies)
        squares = [p.square() + correction(d, d) for p, d in zip(norms, energies, strict=True)]
        norms = [square.clamp(min=0).sqrt() for square in squares]
        noises = [t + _rounding(gram) for t, gram in zip(noises, own, strict=True)]
    inverses = [_inverse(p, noise) for p, noise in zip(norms, noises, strict=True)]
    live = _live(*inverses)
    value = alignment * inverses[0] * inverses[1] * live
    gradients = [None, None]
    for i, (side, other, need) in enumerate(((x, y, needs[0]), (y, x, needs[1]))):
        if not need:
            continue
        factor = _factor(side, inverses[i], live)
        toward, away = factor * inverses[1 - i], factor * inverses[i] * value
        gradient = other.features @ ((cross.mT if i == 0 else cross) * toward)
        gradient -= side.features @ (own[i] * away)
        if debiased:
            rate = slope(energies[1 - i]) * toward - slope(energies[i]) * away
            diagonal = side.features * rate
            gradient += diagonal - over_samples(diagonal) / n
        gradients[i] = gradient
    return value.clamp(-1.0 if debiased else 0.0, 1.0).flatten(), *gradients


def _factor(side: _Side, inverse: Tensor, live: Tensor) -> Tensor:
    """What all gradients of a side are multiplied by: 2 / |K|, in its first scale."""
    factor = (inverse + inverse) * live
    return factor if side.scale is None else factor * side.scale


def _gram(x: Tensor) -> Tensor:
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


def _norm(matrix: Tensor) -> Tensor:
    """Frobenius norm ``(G, M, M') -> (G, 1, 1)``; in two levels, or float32 loses digits on CPU."""
    if matrix.shape[-2:].numel() <= _FEW:
        return torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    if matrix.stride(-1) > matrix.stride(-2):
        matrix = matrix.mT  # along memory first
    rows = torch.linalg.vector_norm(matrix, dim=-1, keepdim=True)
    return torch.linalg.vector_norm(rows, dim=-2, keepdim=True)


def _inverse(norm: Tensor, noise: Tensor | float) -> Tensor:
    """``1 / norm``, 0 for a dead group; NaN stays NaN."""
    return norm.masked_fill(norm <= noise, torch.inf).reciprocal_()


def _live(p: Tensor, q: Tensor) -> Tensor:
    """1 where both sides have energy, else 0, by their :func:`_inverse`."""
    return (p * q).sign_()


def _rounding(gram: Tensor) -> Tensor:
    """What rounding can leave of a Gram matrix without its diagonal."""
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    return _DEAD_RATIO * torch.finfo(gram.dtype).eps * trace


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
