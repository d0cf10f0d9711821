"""Maps worked on chunk by chunk, and images whose channels are taken part by part."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from core_oracle import ESTIMATORS, assert_same, value_and_gradients

from pcka.core import patch_cka, reference, streaming

F32, F64 = torch.float32, torch.float64


def on_maps(student, teacher, function=patch_cka, **options):
    """Return the value and gradients of a function of two maps."""
    return value_and_gradients(partial(function, **options), student, teacher)


@pytest.fixture
def tiny_workspace(monkeypatch):
    """Make a chunk as small as one channel."""
    monkeypatch.setattr(streaming, "WORKSPACE_BYTES", 1)


@pytest.mark.parametrize("inter", [0, 0.3])
@pytest.mark.parametrize("grouping", ["channel", "batch", "position"])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_any_chunk_size_gives_the_same(monkeypatch, grouping, dtype, inter):
    s, t = torch.randn(2, 3, 6, 13, 21, dtype=dtype)
    results = []
    for workspace in (1, 7000, 1 << 30):
        monkeypatch.setattr(streaming, "WORKSPACE_BYTES", workspace)
        results.append(on_maps(s, t, patch_size=4, grouping=grouping, inter=inter))
    tolerance = 1e-6 if dtype == F32 else 1e-14
    for value, *grown in results[1:]:
        torch.testing.assert_close(value, results[0][0], rtol=0, atol=tolerance)
        for a, b in zip(grown, results[0][1:], strict=True):
            assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize("resize", ["bilinear", "pad"])
@pytest.mark.parametrize(("center", "debiased"), ESTIMATORS)
def test_parts_of_an_image_against_the_oracle(tiny_workspace, center, debiased, resize):
    student, teacher = torch.rand(3, 5, 7, 9, dtype=F64), torch.rand(3, 8, 7, 9, dtype=F64)
    how = {"grouping": "batch", "center": center, "debiased": debiased, "resize": resize}
    ours = on_maps(student, teacher, patch_size=(4, 3), **how)
    wanted = on_maps(student, teacher, reference.patch_cka, patch=(4, 3), **how)
    assert_same(ours, wanted)


@pytest.mark.parametrize(("center", "debiased"), ESTIMATORS)
def test_more_patches_than_features(tiny_workspace, center, debiased):
    """Products over the features are cheaper, and small."""
    student, teacher = torch.rand(2, 1, 3, 12, 14, dtype=F64)
    how = {"grouping": "batch", "center": center, "debiased": debiased}
    ours = on_maps(student, teacher, patch_size=1, **how)
    wanted = on_maps(student, teacher, reference.patch_cka, patch=(1, 1), **how)
    assert_same(ours, wanted)


@pytest.mark.parametrize(("center", "debiased"), ESTIMATORS)
@pytest.mark.parametrize("scale", [1e-20, 1e17])
def test_scales_of_images_in_parts(tiny_workspace, scale, center, debiased):
    t = torch.randn(2, 8, 20, 21, dtype=F64)
    s = 0.5 * t + torch.randn_like(t)
    how = {"patch_size": 4, "grouping": "batch", "center": center, "debiased": debiased}
    wanted, slope, _ = on_maps(s, t, **how)
    scales = torch.tensor([1, scale])[:, None, None, None]  # images of unlike scale do not meet
    value, gradient, _ = on_maps((scales * s).float(), (scales * t).float(), **how)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert (gradient.double() * scales - slope).norm() <= 1e-5 * slope.norm()


@pytest.mark.parametrize(("constant", "options"), [(0.0, {}), (3.7, {}), (3.7, {"debiased": True})])
def test_a_dead_image_in_parts(tiny_workspace, constant, options):
    s, t = torch.randn(2, 2, 6, 20, 20)
    s[0] = constant * torch.arange(6)[:, None, None]  # the first part has no rounding noise
    value, gradient, other = on_maps(s, t, patch_size=4, grouping="batch", **options)
    assert not gradient[0].any() and not other[0].any() and gradient[1].any()
    rest = patch_cka(s[1:], t[1:], patch_size=4, grouping="batch", **options)
    assert value.item() == pytest.approx(rest.item() / 2, abs=1e-6)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_nan_stays_nan_in_parts(tiny_workspace, broken):
    s, t = torch.randn(2, 2, 6, 16, 16)
    s[1, 3, 5, 5] = broken
    value, gradient, _ = on_maps(s, t, patch_size=4, grouping="batch")
    assert value.isnan() and gradient[1].isnan().any() and not gradient[0].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_maps_in_parts(tiny_workspace, dtype):
    s, t = torch.randn(2, 2, 6, 16, 16).to(dtype)
    how = {"patch_size": 4, "grouping": "batch"}
    value, gradient, _ = on_maps(s, t, **how)
    wanted, slope, _ = on_maps(s.double(), t.double(), **how)
    assert value.dtype == F32 and gradient.dtype == dtype
    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert (gradient - slope).norm() <= torch.finfo(dtype).eps * slope.norm()


@pytest.mark.parametrize("grouping", ["channel", "batch"])
def test_only_the_gradient_takes_the_memory_of_a_map(monkeypatch, grouping):
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[2] / "benchmarks")])
    from timing import peak_bytes

    monkeypatch.setattr(streaming, "WORKSPACE_BYTES", 1 << 18)
    s, t = torch.randn(2, 2, 64, 100, 168)

    def step():
        patch_cka(s.requires_grad_(), t, grouping=grouping).backward()

    step()
    s.grad = None
    assert s.nbytes <= peak_bytes(step, s.device) <= 1.5 * s.nbytes
