"""PCKA: comparison of the groupings with loops and with the released implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pcka.core import PatchCKA, cka, patch_cka
from pcka.core.patches import PatchOptions, grid_shape, to_patches

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


def maps(case):
    g = np.random.default_rng(case["seed"])
    t = g.standard_normal(case["shape"]) + case["mean"]
    s = 0.5 * t + g.standard_normal(case["shape"]) + case["mean"]
    if case["relu"]:
        s, t = s.clip(0), t.clip(0)
    return torch.tensor(s, requires_grad=True), torch.tensor(t)


@pytest.mark.parametrize("case", GOLDEN["maps"], ids=lambda c: f"seed{c['seed']}")
def test_released_figures(case):
    entries = {k: v for k, v in case.items() if "_intra" in k}
    assert len(entries) >= 5
    for name, wanted in entries.items():
        grouping, form = name.split("_")
        s, t = maps(case)
        inter = form == "intra+inter"
        # The released code adds intra and inter; here they are averaged.
        value = (2 if inter else 1) * patch_cka(s, t, grouping=grouping, center=False, inter=inter)
        (-value).backward()
        assert value.item() == pytest.approx(wanted["mean_cka"], abs=1e-9), name
        assert s.grad.norm().item() == pytest.approx(wanted["grad_l2"], rel=1e-9), name
        first = s.grad.flatten()[:3].tolist()
        assert first == pytest.approx(wanted["grad_first"], rel=1e-7), name


def test_groupings_against_loops():
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float64).view(2, 3, 4, 6)
    p, q = 2, 3
    by_channel, by_batch, by_position = (
        to_patches(x, PatchOptions(patch_size=(p, q), grouping=grouping))
        for grouping in ("channel", "batch", "position")
    )
    assert by_channel.shape == (3, 4, 12)
    assert by_batch.shape == (2, 4, 18)
    assert by_position.shape == (6, 4, 6)
    for u in range(2):
        for v in range(2):
            patch = x[:, :, u * p : (u + 1) * p, v * q : (v + 1) * q]
            n = u * 2 + v
            for c in range(3):
                assert torch.equal(by_channel[c, n], patch[:, c].flatten())
            for b in range(2):
                assert torch.equal(by_batch[b, n], patch[b].flatten())
            for i in range(p):
                for j in range(q):
                    assert torch.equal(by_position[i * q + j, n], patch[:, :, i, j].flatten())


@pytest.mark.parametrize("shape", [(2, 2, 5, 7), (1, 3, 4, 6)])
@pytest.mark.parametrize("grouping", ["channel", "batch", "position"])
@pytest.mark.parametrize("inter", [False, True])
def test_gradcheck(shape, grouping, inter):
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, dtype=torch.float64)

    def loss(s):
        return patch_cka(s, teacher, patch_size=2, grouping=grouping, inter=inter)

    assert torch.autograd.gradcheck(loss, (student,))


def test_channel_order_matters_to_channel_and_not_to_batch():
    student, teacher = torch.randn(2, 8, 16, 16), torch.randn(2, 8, 16, 16)
    shuffled = teacher[:, torch.randperm(8)]
    values = {
        grouping: [
            patch_cka(student, t, patch_size=4, grouping=grouping).item()
            for t in (teacher, shuffled)
        ]
        for grouping in ("channel", "batch", "position")
    }
    assert values["batch"][0] == pytest.approx(values["batch"][1], abs=1e-6)
    assert values["position"][0] == pytest.approx(values["position"][1], abs=1e-6)
    assert abs(values["channel"][0] - values["channel"][1]) > 1e-4


@pytest.mark.parametrize("grouping", ["batch", "position"])
def test_widths_may_differ_where_channels_are_summed_over(grouping):
    student, teacher = torch.randn(2, 4, 16, 16), torch.randn(2, 10, 16, 16)
    assert 0 < patch_cka(student, teacher, patch_size=4, grouping=grouping) < 1


def test_no_intermediate_of_the_square_of_the_features():
    # inter with D = 16 * 64 * 64 features: a D x D matrix would take 16 GiB.
    student, teacher = torch.randn(1, 16, 256, 256), torch.randn(1, 16, 256, 256)
    value = patch_cka(student, teacher, patch_size=64, grouping="batch", inter=True)
    assert 0 <= value <= 1


def test_module_is_one_minus_the_function():
    student, teacher = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    loss = PatchCKA(patch_size=4, grouping="batch", center=False, inter=True)
    wanted = 1 - patch_cka(
        student, teacher, patch_size=4, grouping="batch", center=False, inter=True
    )
    assert torch.equal(loss(student, teacher), wanted)
    assert not list(loss.parameters())
    assert cka(student[0, 0], student[0, 0]) == pytest.approx(1)
    assert PatchCKA(patch_size=4)(teacher, 3 * teacher).item() == pytest.approx(0, abs=1e-6)


def test_grid():
    assert grid_shape(50, 84, 16) == (4, 6)
    assert grid_shape(32, 32, (16, 8)) == (2, 4)


@pytest.mark.parametrize(
    ("student", "teacher", "arguments", "words"),
    [
        ((2, 3, 16, 16), (2, 3, 16, 20), {}, "differ in batch or map size"),
        ((2, 3, 16, 16), (3, 3, 16, 16), {}, r"\(2, 3, 16, 16\).*\(3, 3, 16, 16\)"),
        ((2, 3, 16, 16), (2, 4, 16, 16), {"patch_size": 4}, "conv1x1"),
        ((2, 3, 16), (2, 3, 16), {}, r"\(B, C, H, W\)"),
        ((2, 3, 32, 32), (2, 3, 32, 32), {"grouping": "row"}, "channel, batch, position"),
        ((2, 3, 32, 32), (2, 3, 32, 32), {"patch_size": 0}, "positive integer"),
        ((2, 3, 32, 32), (2, 3, 32, 32), {"patch_size": 2.0}, "positive integer"),
        ((2, 3, 32, 32), (2, 3, 32, 32), {"patch_size": (4, 4, 4)}, "positive integer"),
        ((2, 3, 7, 9), (2, 3, 7, 9), {"center": False}, "7x9 map has 1 patch"),
        ((2, 3, 7, 20), (2, 3, 7, 20), {}, "2 patch.*smaller patch_size"),
    ],
)
def test_bad_input(student, teacher, arguments, words):
    with pytest.raises(ValueError, match=words):
        patch_cka(torch.randn(student), torch.randn(teacher), **arguments)


@pytest.mark.parametrize(
    "arguments", [{"grouping": "row"}, {"patch_size": -1}, {"center": 1}, {"inter": "yes"}]
)
def test_module_refuses_bad_arguments_at_once(arguments):
    with pytest.raises(ValueError, match=r"grouping|patch_size|center|inter"):
        PatchCKA(**arguments)


def test_an_option_that_does_not_exist():
    with pytest.raises(TypeError, match="groupin"):
        PatchCKA(groupin="batch")


@pytest.mark.parametrize(
    ("grouping", "shape", "options", "features"),
    [
        ("channel", (2, 5, 6, 6), {"patch_size": 1}, 2),
        ("batch", (5, 2, 6, 6), {"patch_size": 1}, 2),
        ("position", (1, 2, 6, 6), {"patch_size": 2}, 2),
        ("channel", (3, 5, 6, 6), {"patch_size": 1, "debiased": True}, 3),
        ("channel", (1, 5, 6, 6), {"patch_size": 1, "center": False}, 1),
    ],
)
def test_too_few_features_for_inter(grouping, shape, options, features):
    x, y = torch.randn(2, *shape)
    patch_cka(x, y, grouping=grouping, **options)
    with pytest.raises(ValueError, match=f"grouping '{grouping}' has {features} of them here"):
        patch_cka(x, y, grouping=grouping, inter=True, **options)
