"""CKA: its definition, the released implementation, and its exact properties."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcka.core import cka

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
F64 = torch.float64


def oracle(x, y, center):
    """Compute CKA as in Kornblith et al., with H K H, in float64 numpy."""
    x, y = x.detach().double().numpy(), y.detach().double().numpy()
    n = x.shape[0]
    h = np.eye(n) - 1 / n if center else np.eye(n)
    k, l = h @ x @ x.T @ h, h @ y @ y.T @ h
    return (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())


def pair(n, dx, dy, seed=0, dtype=F64, shift=0.3):
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(n, dy, generator=g, dtype=F64) + shift
    mix = torch.randn(dy, dx, generator=g, dtype=F64) / dy**0.5
    x = 0.5 * y @ mix + torch.randn(n, dx, generator=g, dtype=F64) + shift
    return x.to(dtype), y.to(dtype)


@pytest.mark.parametrize("center", [True, False])
# Wide features use products over the samples, narrow ones over the features.
@pytest.mark.parametrize("shape", [(6, 40, 40), (40, 6, 9), (7, 7, 3), (2, 3, 3), (64, 100, 20)])
def test_equals_its_definition(shape, center):
    x, y = pair(*shape)
    assert cka(x, y, center=center).item() == pytest.approx(oracle(x, y, center), abs=1e-12)


@pytest.mark.parametrize("case", GOLDEN["logits"], ids=lambda c: f"seed{c['seed']}")
def test_released_logits_figures(case):
    g = np.random.default_rng(case["seed"])
    t = 3 * g.standard_normal(case["shape"])
    s, t = torch.tensor(g.standard_normal(case["shape"]) + 0.3 * t), torch.tensor(t)
    assert cka(s, t, center=False).item() == pytest.approx(case["over_samples"], abs=1e-9)
    assert cka(s.T, t.T, center=False).item() == pytest.approx(case["over_classes"], abs=1e-9)


def test_groups_are_independent():
    pairs = [pair(9, 5, 7, seed) for seed in range(6)]
    x = torch.stack([p[0] for p in pairs]).view(2, 3, 9, 5)
    y = torch.stack([p[1] for p in pairs]).view(2, 3, 9, 7)
    one_by_one = torch.stack([cka(*p) for p in pairs]).view(2, 3)
    torch.testing.assert_close(cka(x, y), one_by_one, rtol=0, atol=1e-14)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(3, 12),
    dx=st.integers(1, 12),
    dy=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    center=st.booleans(),
    scale=st.floats(1e-3, 1e3),
)
def test_invariances(n, dx, dy, seed, center, scale):
    x, y = pair(n, dx, dy, seed)
    value = cka(x, y, center=center)
    assert 0 <= value <= 1
    rotation = torch.linalg.qr(torch.randn(dx, dx, dtype=F64)).Q
    order = torch.randperm(n)
    same = [(scale * x @ rotation, y), (x[order], y[order]), (y, x)]
    if center:
        same.append((x + torch.randn(dx, dtype=F64), y - 3))
    for other in same:
        assert cka(*other, center=center).item() == pytest.approx(value.item(), abs=1e-9)
    assert cka(x, scale * x @ rotation, center=center).item() == pytest.approx(1, abs=1e-9)


def test_centring_makes_the_difference_that_it_should():
    x, y = pair(20, 8, 8, shift=5.0)
    assert cka(x, y, center=False) > 0.95
    assert cka(x, y, center=True) < 0.8
    # A translation moves the uncentred value.
    moved = cka(x + 10, y, center=False) - cka(x, y, center=False)
    assert abs(moved.item()) > 1e-5


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("shape", [(5, 9, 12), (12, 4, 3)])
def test_gradcheck(shape, center):
    x, y = (v.requires_grad_() for v in pair(*shape))
    assert torch.autograd.gradcheck(lambda a, b: cka(a, b, center=center), (x, y))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(3, 10), d=st.integers(1, 12), seed=st.integers(0, 10**6), center=st.booleans())
def test_gradient_is_orthogonal_and_bounded(n, d, seed, center):
    x, y = pair(n, d, d, seed)
    x.requires_grad_()
    value = cka(x, y, center=center)
    (gradient,) = torch.autograd.grad(value, x)
    base = x.detach() - x.detach().mean(0) if center else x.detach()
    assert (gradient * x).sum().item() == pytest.approx(0, abs=1e-9)
    bound = 2 * (1 - value.item() ** 2) ** 0.5 / torch.linalg.matrix_norm(base, 2).item()
    assert gradient.norm().item() <= bound * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("shape", [(20, 64, 64), (40, 8, 8)])
@pytest.mark.parametrize("scale", [1e-18, 1e-8, 1.0, 1e8, 1e16])
def test_float32_at_any_scale(scale, shape, center):
    x, y = pair(*shape)
    exact = x.clone().requires_grad_()
    wanted = cka(exact, y, center=center)
    wanted.backward()
    single = (x * scale).float().requires_grad_()
    value = cka(single, y.float(), center=center)
    value.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-6)
    gradient = single.grad.double() * scale
    assert (gradient - exact.grad).norm() <= 2e-5 * exact.grad.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype):
    x, y = pair(20, 64, 64, dtype=dtype)
    x = (100 * x).requires_grad_()  # the released code is NaN in float16 from 0.3
    value = cka(x, y)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(oracle(x, y, True), abs=1e-6)
    value.backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all()


def test_autocast_does_not_reach_the_gram_matrices():
    x, y = pair(20, 64, 64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cka(x, y)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, cka(x, y))


@pytest.mark.parametrize("shape", [(8, 20, 20), (20, 3, 3)])
@pytest.mark.parametrize(("constant", "center"), [(0.0, False), (0.0, True), (3.7, True)])
def test_dead_group_gives_zero_and_no_gradient(constant, center, shape):
    n, d, _ = shape
    dead = torch.full((n, d), constant, requires_grad=True)
    live = torch.randn(n, d, requires_grad=True)
    for a, b in ((dead, live), (live, dead)):
        value = cka(a, b, center=center)
        assert value == 0
        gradients = torch.autograd.grad(value, (a, b))
        assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


def test_nan_stays_nan_even_beside_a_dead_group():
    broken = torch.randn(8, 5)
    broken[2, 3] = float("nan")
    for other in (torch.randn(8, 5), torch.zeros(8, 5)):
        assert cka(broken, other).isnan()
        assert cka(other, broken).isnan()


def test_few_samples():
    x, y = pair(2, 5, 7)
    x.requires_grad_()
    value = cka(x, y)  # two centred samples always agree
    assert value.item() == pytest.approx(1)
    value.backward()
    assert x.grad.abs().max() < 1e-12
    assert cka(x[:1], y[:1], center=False).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y", "center", "words"),
    [
        ((5, 3), (6, 3), True, r"\(5, 3\).*\(6, 3\)"),
        ((2, 5, 3), (5, 3), True, "same groups"),
        ((3,), (3,), True, r"\(\.\.\., N, D\)"),
        ((1, 3), (1, 3), True, "center=False"),
        ((0, 3), (0, 3), False, "two or more"),
    ],
)
def test_shapes_that_do_not_fit(x, y, center, words):
    with pytest.raises(ValueError, match=words):
        cka(torch.zeros(x), torch.zeros(y), center=center)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="int64"):
        cka(torch.ones(3, 3, dtype=torch.int64), torch.ones(3, 3))


def test_no_features():
    with pytest.raises(ValueError, match=r"cka of no features is undefined, x is \(4, 0\)"):
        cka(torch.ones(4, 0), torch.ones(4, 2))
