"""The closed form compared with plain float64 autograd, on every path."""

from functools import partial

import pytest
import torch
from core_oracle import ESTIMATORS, assert_same, value_and_gradients

from pcka.core import cka, patch_cka, reference
from pcka.core.closed_form import cka_with_gradients, over_features
from pcka.core.grams import norm, standardize

F64 = torch.float64


@pytest.mark.parametrize(("center", "debiased"), ESTIMATORS)
@pytest.mark.parametrize("shape", [(9, 4, 6), (5, 12, 3), (4, 7, 7)])
def test_both_forms(center, debiased, shape):
    n, dx, dy = shape
    x, y = torch.randn(1, n, dx, dtype=F64) + 0.5, torch.randn(1, n, dy, dtype=F64) - 0.3
    how, both = {"center": center, "debiased": debiased}, (True, True)
    wanted = value_and_gradients(partial(reference.cka, **how), x[0], y[0])
    # A spread over the features of one process forces Gram matrices over the samples.
    over_samples = cka_with_gradients(x, y, needs=both, spread="features", **how)
    sides = (standardize(t, center) for t in (x, y))
    for value, *gradients in (over_samples, over_features(*sides, debiased, both, None)):
        assert_same((value[0], *(g[0] for g in gradients)), wanted)


@pytest.mark.parametrize("along", ["features", "samples"])
@pytest.mark.parametrize(("center", "debiased"), ESTIMATORS)
def test_gram_matrices_by_blocks(center, debiased, along):
    """Gram matrices of many samples and features grow by blocks, the last one incomplete."""
    n, dx, dy = 150, 800, 900
    x, y = torch.randn(n, dx, dtype=F64), torch.randn(n, dy, dtype=F64)
    y[:, :dx] += x
    if along == "samples":  # in memory
        x, y = x.mT.contiguous().mT, y.mT.contiguous().mT
    torch.testing.assert_close(norm(x[None]).squeeze(), x.square().sum().sqrt())
    ours = value_and_gradients(lambda a, b: cka(a, b, center=center, debiased=debiased), x, y)
    wanted = value_and_gradients(partial(reference.cka, center=center, debiased=debiased), x, y)
    assert_same(ours, wanted)


@pytest.mark.parametrize("resize", ["bilinear", "pad"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("center", "debiased"), ESTIMATORS)
@pytest.mark.parametrize("grouping", ["channel", "batch", "position"])
# Wide patches use products over samples, narrow ones over features; both axes are resized.
@pytest.mark.parametrize(("shape", "patch"), [((3, 5, 7, 9), (4, 3)), ((1, 4, 11, 8), (2, 2))])
def test_patch_cka_equals_the_oracle(shape, patch, grouping, center, debiased, share, resize):
    student, teacher = torch.rand(shape, dtype=F64), torch.rand(shape, dtype=F64)
    how = {"center": center, "debiased": debiased, "resize": resize}
    ours = value_and_gradients(
        lambda s, t: patch_cka(s, t, patch_size=patch, grouping=grouping, inter=share, **how),
        student,
        teacher,
    )
    wanted = value_and_gradients(
        partial(reference.patch_cka, patch=patch, grouping=grouping, inter=share, **how),
        student,
        teacher,
    )
    assert_same(ours, wanted)


@pytest.mark.parametrize("resize", ["bilinear", "pad"])
@pytest.mark.parametrize("inter", [False, 0.4])
@pytest.mark.parametrize(("center", "debiased"), ESTIMATORS)
@pytest.mark.parametrize("grouping", ["channel", "batch", "position"])
@pytest.mark.parametrize("patch", [2, (3, 2)])
def test_gradcheck(patch, grouping, center, debiased, inter, resize):
    maps = [torch.randn(2, 2, 5, 7, dtype=F64, requires_grad=True) for _ in range(2)]

    def value(s, t):
        return patch_cka(
            s,
            t,
            patch_size=patch,
            grouping=grouping,
            center=center,
            debiased=debiased,
            inter=inter,
            resize=resize,
        )

    assert torch.autograd.gradcheck(value, maps, fast_mode=True)


@pytest.mark.parametrize(("center", "debiased"), ESTIMATORS)
@pytest.mark.parametrize("grouping", ["channel", "batch", "position"])
@pytest.mark.parametrize("inter", [False, True])
def test_float32_has_the_digits_of_float64(grouping, center, debiased, inter):
    teacher = torch.randn(2, 8, 50, 42, dtype=F64)
    student = 0.5 * teacher + torch.randn(2, 8, 50, 42, dtype=F64)
    results = [
        value_and_gradients(
            lambda s, t: patch_cka(
                s, t, patch_size=8, grouping=grouping, center=center, debiased=debiased, inter=inter
            ),
            student.to(dtype),
            teacher.to(dtype),
        )
        for dtype in (torch.float32, F64)
    ]
    (value, *gradients), (wanted, *wanted_gradients) = results
    assert value.dtype == torch.float32
    assert abs(value.item() - wanted.item()) <= 1e-6
    for gradient, exact in zip(gradients, wanted_gradients, strict=True):
        assert (gradient - exact).norm() <= 1e-5 * exact.norm()


def test_far_from_the_origin_float32_keeps_its_digits():
    x, y = torch.randn(40, 24, dtype=F64), torch.randn(40, 24, dtype=F64)
    y = x + y
    wanted = value_and_gradients(cka, x, y)
    # Rounded first, because the digits lost in 100 + x as float32 are not lost by the arithmetic.
    x, y = (x + 100).float(), (y + 100).float()
    ours = value_and_gradients(cka, x, y)
    wanted = value_and_gradients(cka, x.double(), y.double())
    assert abs(ours[0] - wanted[0]) < 1e-6
    assert (ours[1] - wanted[1]).norm() < 1e-5 * wanted[1].norm()


@pytest.mark.parametrize("center", [True, False])
def test_cka_is_differentiable_in_either_argument(center):
    x, y = torch.randn(3, 6, 5, dtype=F64), torch.randn(3, 6, 4, dtype=F64)
    assert not cka(x, y, center=center).requires_grad
    gx, gy = torch.autograd.grad(
        cka(x.requires_grad_(), y.requires_grad_(), center=center).sum(), (x, y)
    )
    (only_x,) = torch.autograd.grad(cka(x, y.detach(), center=center).sum(), x)
    (only_y,) = torch.autograd.grad(cka(x.detach(), y, center=center).sum(), y)
    assert_same((only_x, only_y), (gx, gy), 1e-13)


def test_debiased_is_near_zero_where_plain_cka_is_near_one():
    values = {True: [], False: []}
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        x, y = torch.randn(8, 256, generator=g), torch.randn(8, 256, generator=g)
        for debiased, collected in values.items():
            collected.append(cka(x, y, debiased=debiased).item())
    means = {k: sum(v) / len(v) for k, v in values.items()}
    assert means[False] > 0.9 and abs(means[True]) < 0.15


def test_debiased_needs_four_centred_samples():
    with pytest.raises(ValueError, match=r"4 samples.*\(3, 5\)"):
        cka(torch.randn(3, 5), torch.randn(3, 5), debiased=True)
    with pytest.raises(ValueError, match="center=True"):
        cka(torch.randn(5, 5), torch.randn(5, 5), center=False, debiased=True)
    # All samples are equally far apart, so nothing is left without the diagonal.
    assert cka(torch.eye(5), torch.randn(5, 3), debiased=True) == 0
