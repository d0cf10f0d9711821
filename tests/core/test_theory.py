"""The statements of docs/theory.md, each tested on random representations in float64."""

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcka.core import cka, reference

F64 = torch.float64
many = settings(max_examples=40, deadline=None)
samples, widths, seeds = st.integers(2, 12), st.integers(1, 10), st.integers(0, 10**6)


def pair(n, dx, dy, seed, center=False):
    """Return related representations off the origin, ``(n, dx)``, ``(n, dy)``, or centred ones."""
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 2, generator=g, dtype=F64)
    sides = []
    for d in (dx, dy):
        mixed = common @ torch.randn(2, d, generator=g, dtype=F64)
        noise, mean = torch.randn(n + 1, d, generator=g, dtype=F64).split([n, 1])
        sides.append(mixed + noise + mean)
    return [s - s.mean(0) if center else s for s in sides]


def unit_gram(x):
    gram = x @ x.T
    return gram / gram.norm()


def mmd_squared(a, b, kernel):
    """Return the biased (V-statistic) squared MMD of the rows of ``a (m, d)`` and ``b (m', d)``."""
    return kernel(a, a).mean() + kernel(b, b).mean() - 2 * kernel(a, b).mean()


def squared(a, b):
    return (a @ b.T) ** 2


@many
@given(n=samples, dx=widths, dy=widths, seed=seeds, center=st.booleans())
def test_t1_half_the_squared_distance_of_unit_grams(n, dx, dy, seed, center):
    x, y = pair(n, dx, dy, seed)
    value = cka(x, y, center=center).item()
    if center:
        x, y = x - x.mean(0), y - y.mean(0)
    distance = (unit_gram(x) - unit_gram(y)).norm() ** 2
    assert 1 - value == pytest.approx(distance.item() / 2, abs=1e-9)


@many
@given(n=samples, dx=widths, dy=widths, seed=seeds, center=st.booleans())
def test_t2_jensen_and_where_it_says_nothing(n, dx, dy, seed, center):
    k, l = (unit_gram(s) for s in pair(n, dx, dy, seed, center))
    difference = (k - l).flatten()
    mean, variance = difference.mean(), difference.var(unbiased=False)
    assert torch.isclose(difference.square().sum(), n**2 * (mean**2 + variance), atol=1e-12)
    assert difference.square().sum() >= n**2 * mean**2 - 1e-12
    if center:
        assert n**2 * mean**2 < 1e-20  # vacuous


@many
@given(n=samples, dx=widths, dy=widths, seed=seeds)
def test_t3_the_paper_s_bound_sees_only_mean_features(n, dx, dy, seed):
    x, y = pair(n, dx, dy, seed)
    k, l = unit_gram(x), unit_gram(y)
    bound = n**2 * (k - l).mean() ** 2
    norms = [s.mean(0).square().sum() / (s @ s.T).norm() for s in (x, y)]
    assert torch.isclose(bound, (n * (norms[0] - norms[1])) ** 2, atol=1e-12)
    entries = k.reshape(-1, 1), l.reshape(-1, 1)
    assert torch.isclose(bound, n**2 * mmd_squared(*entries, lambda a, b: a @ b.T), atol=1e-12)


@many
@given(n=samples, d=widths, seed=seeds, center=st.booleans())
def test_t4_mmd_between_feature_columns(n, d, seed, center):
    x, y = pair(n, d, d, seed, center)
    columns = [s.T / (s @ s.T).norm() ** 0.5 for s in (x, y)]
    value = cka(x, y, center=center).item()
    assert 2 * (1 - value) == pytest.approx(d**2 * mmd_squared(*columns, squared).item(), abs=1e-9)


@many
@given(n=samples, dx=widths, dy=widths, seed=seeds)
def test_t4_with_sums_instead_of_means_for_any_widths(n, dx, dy, seed):
    x, y = pair(n, dx, dy, seed)
    a, b = (s.T / (s @ s.T).norm() ** 0.5 for s in (x, y))
    sums = squared(a, a).sum() + squared(b, b).sum() - 2 * squared(a, b).sum()
    assert 2 * (1 - cka(x, y, center=False).item()) == pytest.approx(sums.item(), abs=1e-9)


@many
@given(n=samples, d=widths, seed=seeds)
def test_t5_inter_is_an_mmd_between_samples(n, d, seed):
    x, y = pair(n, d, d, seed)
    rows = [s / (s @ s.T).norm() ** 0.5 for s in (x, y)]
    value = cka(x.T, y.T, center=False).item()
    assert 1 - value == pytest.approx(n**2 / 2 * mmd_squared(*rows, squared).item(), abs=1e-9)


@many
@given(n=samples, dx=widths, dy=widths, seed=seeds, center=st.booleans())
def test_t6_transport_between_gram_entries(n, dx, dy, seed, center):
    x, y = pair(n, dx, dy, seed, center)
    # For equally many points on a line the best transport keeps their order.
    k, l = (unit_gram(s).flatten().sort().values for s in (x, y))
    chain = [
        2 * (1 - cka(x, y, center=center)) / n**2,
        (k - l).square().mean(),
        (k - l).abs().mean() ** 2,
        (k.mean() - l.mean()) ** 2,
    ]
    for larger, smaller in pairwise(chain):
        assert larger >= smaller - 1e-12


@many
@given(n=samples, d=widths, seed=seeds, center=st.booleans())
def test_features_may_differ_as_they_like_at_cka_one(n, d, seed, center):
    x, _ = pair(n, d, d, seed)
    flipped = -x
    assert cka(x, flipped, center=center).item() == pytest.approx(1, abs=1e-9)
    gaussian = [
        torch.exp(-(torch.cdist(a, b) ** 2)) for a, b in ((x, x), (flipped, flipped), (x, flipped))
    ]
    mmd = gaussian[0].mean() + gaussian[1].mean() - 2 * gaussian[2].mean()
    assert mmd > 0  # and as large as one likes, relative to its maximum, far from the origin


@many
@given(
    n=st.integers(4, 12),
    dx=widths,
    dy=widths,
    seed=seeds,
    center=st.booleans(),
    debiased=st.booleans(),
    scale=st.floats(1e-3, 1e3),
)
def test_invariances(n, dx, dy, seed, center, debiased, scale):
    center = center or debiased
    x, y = pair(n, dx, dy, seed)
    value = cka(x, y, center=center, debiased=debiased)
    order = torch.randperm(n)
    rotation = torch.linalg.qr(torch.randn(dx, dx, dtype=F64)).Q
    same = [(scale * x @ rotation, y), (x[order], y[order]), (y, x)]
    if center:
        same.append((x + torch.randn(dx, dtype=F64), y - 3))
    for other in same:
        again = cka(*other, center=center, debiased=debiased)
        assert again.item() == pytest.approx(value.item(), abs=1e-7)


@many
@given(
    n=st.integers(4, 12),
    d=widths,
    seed=seeds,
    center=st.booleans(),
    debiased=st.booleans(),
)
def test_gradient_is_orthogonal_centred_and_bounded(n, d, seed, center, debiased):
    center = center or debiased
    x, y = pair(n, d, d, seed)
    x.requires_grad_()
    value = cka(x, y, center=center, debiased=debiased)
    (gradient,) = torch.autograd.grad(value, x)
    size = 1 / x.detach().norm()
    assert (gradient * x).sum().abs() < 1e-8
    if center:
        assert gradient.sum(0).norm() < 1e-8 * size * max(1, x.detach().mean(0).norm())
    if not debiased:
        base = x.detach() - x.detach().mean(0) if center else x.detach()
        bound = 2 * (1 - value.item() ** 2) ** 0.5 / torch.linalg.matrix_norm(base, 2)
        assert gradient.norm() <= bound * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("n", [6, 30, 273])
def test_independent_representations(n):
    g = torch.Generator().manual_seed(n)
    d = 256
    x, y = torch.randn(2, 20, n, d, generator=g, dtype=F64)
    assert cka(x, y).mean().item() == pytest.approx(1 / (1 + (n - 1) / d), abs=0.02)
    assert abs(cka(x, y, debiased=True).mean().item()) < 0.15 if n == 6 else 0.03


def test_the_debiased_products_are_unbiased():
    # The mean of the unbiased HSIC over all subsets of 5 of 8 samples is exactly that of all 8.
    x, y = pair(8, 3, 4, 0)
    k, l = x @ x.T, y @ y.T
    values = [
        reference.unbiased_hsic(k[i][:, i], l[i][:, i])
        for i in map(list, combinations(range(8), 5))
    ]
    assert torch.isclose(torch.stack(values).mean(), reference.unbiased_hsic(k, l), rtol=1e-10)
