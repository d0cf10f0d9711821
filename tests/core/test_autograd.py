"""The closed form inside autograd: which inputs get gradients, how often, and in what type."""

import pytest
import torch
from torch import nn

from pcka.core import PatchCKA, cka, patch_cka, reference, resize
from pcka.core.patches import PatchOptions, from_patches, to_patches

F64 = torch.float64


def maps(shape=(2, 6, 13, 21), dtype=F64):
    return torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)


def gradients(student, teacher, which, **options):
    tensors = [
        t.detach().clone().requires_grad_(w) for t, w in zip((student, teacher), which, strict=True)
    ]
    value = patch_cka(*tensors, patch_size=4, **options)
    return value, torch.autograd.grad(value, [t for t, w in zip(tensors, which, strict=True) if w])


@pytest.mark.parametrize("inter", [False, True])
def test_gradients_to_either_both_or_neither(inter):
    s, t = maps()
    value, (gs, gt) = gradients(s, t, (True, True), inter=inter)
    torch.testing.assert_close(gradients(s, t, (True, False), inter=inter)[1][0], gs)
    torch.testing.assert_close(gradients(s, t, (False, True), inter=inter)[1][0], gt)
    alone = patch_cka(s, t, patch_size=4, inter=inter)
    assert not alone.requires_grad
    torch.testing.assert_close(alone, value.detach())
    with torch.no_grad():
        assert not patch_cka(s.requires_grad_(), t, patch_size=4).requires_grad


def test_deterministic():
    s, t = maps((2, 16, 50, 42), torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        (value, (g,)), (again, (h,)) = (gradients(s, t, (True, False)) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(value, again) and torch.equal(g, h)


def test_backward_twice_through_a_retained_graph():
    s, t = maps()
    s.requires_grad_()
    loss = 3 * patch_cka(s, t, patch_size=4)
    (first,) = torch.autograd.grad(loss, s, retain_graph=True)
    (second,) = torch.autograd.grad(loss, s)
    assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("outer", [lambda v: v, lambda v: v * v])
def test_double_backward_says_no(outer):
    s, t = maps()
    s.requires_grad_()
    for value in (patch_cka(s, t, patch_size=4), cka(s[0, 0], t[0, 0])):
        (g,) = torch.autograd.grad(outer(value), s, create_graph=True)
        with pytest.raises(RuntimeError, match="second time"):
            g.square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_maps_and_loss_scaling(dtype):
    s, t = maps((1, 4, 16, 16), torch.float32)
    s, t = (100 * s).to(dtype).requires_grad_(), t.to(dtype)
    value = patch_cka(s, t, patch_size=4)
    exact, (wanted,) = gradients(s.double(), t.double(), (True, False))
    assert value.dtype == torch.float32
    assert abs(value.item() - exact.item()) < 1e-6
    # GradScaler does the same: small gradients survive only with the scale.
    (g,) = torch.autograd.grad(value * 65536, s)
    assert g.dtype == dtype
    error = (g.double() / 65536 - wanted).norm() / wanted.norm()
    assert error < 4 * torch.finfo(dtype).eps


def test_autocast_changes_nothing():
    conv = nn.Conv2d(3, 6, 3, padding=1)
    image, teacher = torch.randn(2, 3, 13, 21), torch.randn(2, 6, 13, 21)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student = conv(image)
        inside = patch_cka(student, teacher, patch_size=4, inter=True)
        (-inside).backward()
    assert student.dtype == torch.bfloat16 and inside.dtype == torch.float32
    assert torch.equal(inside, patch_cka(student, teacher, patch_size=4, inter=True))
    assert conv.weight.grad.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_inside_a_compiled_model():
    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.loss = nn.Conv2d(3, 6, 3, padding=1), PatchCKA(patch_size=4, inter=True)

        def forward(self, image, teacher):
            return 2 * self.loss(self.conv(image).relu(), teacher)

    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return graph.forward

    model, image, teacher = Student(), torch.randn(2, 3, 13, 21), torch.randn(2, 6, 13, 21)
    results = []
    compiled = [torch.compile(model, backend=b) for b in ("aot_eager", backend)]
    for run in (model, *compiled):
        model.zero_grad()
        loss = run(image, teacher)
        loss.backward()
        results.append((loss.detach(), model.conv.weight.grad.clone()))
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            torch.testing.assert_close(a, b)
    assert any("conv" in code for code in graphs)
    assert not any("bmm" in code for code in graphs)  # the loss is not traced


@pytest.mark.parametrize("how", ["bilinear", "pad"])
@pytest.mark.parametrize("grouping", ["channel", "batch", "position"])
@pytest.mark.parametrize(
    ("size", "patch"),
    [((13, 21), (4, 8)), ((50, 48), (16, 16)), ((1, 5), (4, 7)), ((8, 9), (4, 4))],
)
def test_patches_and_their_adjoint(size, patch, grouping, how):
    x = torch.randn(2, 3, *size, dtype=F64)
    options = PatchOptions(patch_size=patch, grouping=grouping, resize=how)
    cut = to_patches(x, options)
    wanted = reference.cut_patches(x, patch, grouping, how)
    torch.testing.assert_close(cut, wanted, rtol=0, atol=1e-13)
    g = torch.randn_like(cut)
    back = from_patches(g, torch.full_like(x, torch.nan), options)
    assert torch.isclose((back * x).sum(), (g * cut).sum(), rtol=1e-11)
    # Autograd works as well, for users of the patches elsewhere.
    (slope,) = torch.autograd.grad(to_patches(x.requires_grad_(), options), x, g)
    torch.testing.assert_close(slope, back, rtol=0, atol=1e-13)


def test_resizing_by_one_block_as_on_a_gpu(monkeypatch):
    x, g = torch.randn(2, 3, 13, 21, dtype=F64), torch.randn(2, 3, 16, 32, dtype=F64)

    def results():
        return resize.bilinear(x, 16, 32), resize.bilinear_adjoint(g, torch.empty_like(x))

    by_bands = results()
    monkeypatch.setattr(resize, "BANDED_DEVICES", set())
    for found, wanted in zip(results(), by_bands, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
