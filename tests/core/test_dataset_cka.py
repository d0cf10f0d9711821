"""CKAMeter: the CKA of all samples at once, for any split into batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcka.core import CKAMeter, reference

F64 = torch.float64


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    debiased=st.booleans(),
    shift=st.sampled_from([0.0, 3.0, 1e4]),
    seed=st.integers(0, 10**6),
)
def test_does_not_depend_on_the_split(sizes, debiased, shift, seed):
    g = torch.Generator().manual_seed(seed)
    n = sum(sizes) + 4
    y = torch.randn(n, 5, dtype=F64, generator=g)
    x = torch.cat([y[:, :3], torch.randn(n, 3, dtype=F64, generator=g)], 1)
    meter = CKAMeter(debiased=debiased)
    for a, b in zip((x + shift).split([4, *sizes]), (y - shift).split([4, *sizes]), strict=True):
        meter.update(a, b)
    assert meter.samples == n
    wanted = reference.cka(x, y, debiased=debiased).item()
    assert meter.compute() == pytest.approx(wanted, abs=1e-9 if shift < 10 else 1e-6)


def test_minibatches_average_unbiased_products():
    y = torch.randn(600, 6)
    x = y @ torch.randn(6, 4) + torch.randn(600, 4)
    meter, whole = CKAMeter(minibatch=True), CKAMeter()
    whole.update(x, y)
    for a, b in zip(x.split(20), y.split(20), strict=True):
        meter.update(a, b)
    assert meter.compute() == pytest.approx(whole.compute(), abs=0.03)
    once = CKAMeter(minibatch=True)
    once.update(x, y)
    assert once.compute() == pytest.approx(whole.compute(), abs=1e-12)


def test_keeps_nothing_of_the_batch():
    x, y = torch.randn(8, 3, requires_grad=True), torch.randn(8, 3)
    meter = CKAMeter()
    meter.update(x, y)
    before = meter.compute()
    with torch.no_grad():
        x.relu_()
    assert meter.compute() == before
    meter.reset()
    assert meter.samples == 0


def test_bad_input():
    meter = CKAMeter()
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        meter.update(torch.ones(2, 3, 4), torch.ones(2, 3))
    with pytest.raises(ValueError, match="0 samples"):
        meter.compute()
    with pytest.raises(ValueError, match=r"4 samples.*\(3, 2\)"):
        CKAMeter(minibatch=True).update(torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="debiased"):
        CKAMeter(minibatch=True, debiased=False)
