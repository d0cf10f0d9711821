"""Inputs on which the plain form fails: the table of docs/theory.md, row by row."""

import pytest
import torch

from pcka.core import cka, feature_cka, logit_cka, patch_cka, reference

F32, F64 = torch.float32, torch.float64


def pair(n=40, d=64, dtype=F64):
    y = torch.randn(n, d, dtype=F64) + 0.3
    return (0.5 * y + torch.randn(n, d, dtype=F64)).to(dtype), y.to(dtype)


def with_gradient(function, x, *rest):
    x = x.detach().clone().requires_grad_()
    value = function(x, *rest)
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize(("center", "debiased"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("shape", [(40, 64), (64, 9)])  # over samples, over features
@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1e-3, 1e3, 1e12, 1e17])
def test_scales_in_float32(scale, shape, center, debiased):
    x, y = pair(*shape)
    x, y = (scale * x).float(), (y / scale).float()
    exact = x.double() / scale, y.double() * scale
    wanted, slope = with_gradient(
        lambda a, b: reference.cka(a, b, center=center, debiased=debiased), *exact
    )
    value, gradient = with_gradient(lambda a, b: cka(a, b, center=center, debiased=debiased), x, y)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)
    error = gradient.double() * scale - slope
    assert error.norm() <= 1e-5 * slope.norm()


@pytest.mark.parametrize(("center", "debiased"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("shape", [(40, 64), (64, 9)])  # over samples, over features
def test_powers_of_two_change_no_bit(shape, center, debiased):
    x, y = pair(*shape, dtype=F32)

    def compute(factor):
        return with_gradient(lambda a: cka(a, y, center=center, debiased=debiased), factor * x)

    value, gradient = compute(1.0)
    for exponent in range(-60, 57, 3):  # through the range in which nothing has to be scaled
        scaled, slope = compute(2.0**exponent)
        assert scaled.equal(value), exponent
        assert slope.mul(2.0**exponent).equal(gradient), exponent


@pytest.mark.parametrize("grouping", ["channel", "batch", "position"])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [1e-20, 1e17])
def test_scales_of_maps(grouping, center, scale):
    t = torch.randn(2, 32, 40, 42, dtype=F64)
    s = 0.5 * t + torch.randn_like(t)
    options = {"patch_size": 8, "grouping": grouping, "center": center, "inter": True}
    wanted, slope = with_gradient(lambda a, b: patch_cka(a, b, **options), s, t)
    value, gradient = with_gradient(
        lambda a, b: patch_cka(a, b, **options), (scale * s).float(), (scale * t).float()
    )
    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert (gradient.double() * scale - slope).norm() <= 1e-5 * slope.norm()


@pytest.mark.parametrize("scale", [1e-20, 1e17])
def test_groups_of_unlike_scale_do_not_meet(scale):
    s, t = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 16)
    factors = torch.tensor([1.0, scale, 1.0])[:, None, None]
    value = patch_cka(factors * s, t, patch_size=4)
    assert value.item() == pytest.approx(patch_cka(s, t, patch_size=4).item(), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 0.3, 100.0])
def test_half_types(dtype, scale):
    x, y = pair()
    x, y = (scale * x).to(dtype), (scale * y).to(dtype)
    # A loss scale like GradScaler's, because float16 cannot hold gradients this small without it.
    value, gradient = with_gradient(lambda a, b: 1024 * scale * cka(a, b), x, y)
    wanted, slope = with_gradient(lambda a, b: 1024 * scale * cka(a, b), x.double(), y.double())
    assert value.dtype == F32 and gradient.dtype == dtype
    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert (gradient.double() - slope).norm() <= torch.finfo(dtype).eps * slope.norm()


@pytest.mark.parametrize("function", [cka, feature_cka, logit_cka])
@pytest.mark.parametrize(
    ("options", "constant"),
    [
        ({"center": False}, 0.0),
        *[(o, c) for o in ({}, {"debiased": True}) for c in (0.0, 3.7, 1e17)],
    ],
    ids=str,
)
def test_dead_side(function, options, constant):
    live, dead = torch.randn(12, 5), torch.full((12, 5), constant)
    for x, y in ((live, dead), (dead, live), (dead, dead)):
        value, gradient = with_gradient(lambda a, b: function(a, b, **options), x, y)
        assert value == 0 and not gradient.any()


@pytest.mark.parametrize(
    ("constant", "options"),
    [(2.5, {}), (0.0, {"center": False}), (0.0, {"center": False, "inter": 0.3})],
    ids=str,
)
def test_one_dead_group_among_live_ones(constant, options):
    s, t = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    s[:, 1] = constant

    def value_of(a, b):
        return patch_cka(a, b, patch_size=4, **options)

    value, gradient = with_gradient(value_of, s, t)
    assert not gradient[:, 1].any() and gradient[:, 0].any()
    rest = value_of(s[:, ::2], t[:, ::2])
    assert value.item() == pytest.approx(rest.item() * 2 / 3, abs=1e-6)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [{}, {"center": False}, {"debiased": True}], ids=str)
@pytest.mark.parametrize("shape", [(6, 20), (20, 3)])
def test_nan_stays_nan(broken, options, shape):
    x, zero = torch.randn(shape), torch.zeros(shape)
    x[2, 1] = broken
    for other in (torch.randn(shape), zero):
        value, gradient = with_gradient(lambda a, b: cka(a, b, **options), x, other)
        assert value.isnan() and gradient.isnan().any()
        assert cka(other, x, **options).isnan()


def test_nan_in_one_channel_shows_in_the_loss():
    s, t = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 16)
    s[0, 1, 3, 3] = float("nan")
    assert patch_cka(s, t, patch_size=4).isnan()


def test_single_and_two_samples():
    x, y = torch.randn(1, 5, dtype=F64), torch.randn(1, 7, dtype=F64)
    value, gradient = with_gradient(lambda a, b: cka(a, b, center=False), x, y)
    assert value.item() == pytest.approx(1) and gradient.abs().max() < 1e-14
    with pytest.raises(ValueError, match=r"\(1, 5\).*center=False"):
        cka(x, y)
    value, gradient = with_gradient(cka, torch.randn(2, 5, dtype=F64), torch.randn(2, 7, dtype=F64))
    assert value.item() == pytest.approx(1) and gradient.abs().max() < 1e-14


@pytest.mark.parametrize("inter", [0, 0.3])
def test_nan_of_one_map_stays_nan(inter):
    s, t = torch.randn(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)
    s[1, 2, 3, 4] = torch.nan
    value, gradient = with_gradient(
        lambda a, b: patch_cka(a, b, patch_size=4, center=False, inter=inter), s, t
    )
    assert value.isnan() and gradient[:, 2].isnan().any() and not gradient[:, :2].any()
