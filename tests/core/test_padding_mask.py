"""Masked padding: its content changes no loss and gets no gradient."""

import pytest
import torch

from pcka.core import DistillTerms, FeatureShape, TermSpec, cka, mimic_loss, patch_cka
from pcka.core.features import cells_of_images

STRIDE = 8
SIZES = [(16 * STRIDE, 8 * STRIDE), (8 * STRIDE, 12 * STRIDE - 3)]  # 16x8 and 8x12 cells
SHAPE = {"p3": FeatureShape(3, STRIDE)}


def maps(height=16, width=12):
    return [torch.randn(2, 3, height, width, dtype=torch.float64) for _ in range(2)]


def crops(x):
    return [x[:1, :, :16, :8], x[1:, :, :8, :12]]


def terms(loss="PatchCKA", **arguments):
    arguments = {"patch_size": 4, **arguments} if loss == "PatchCKA" else arguments
    return DistillTerms([TermSpec("t", ["p3"], loss=loss, loss_args=arguments)], SHAPE, SHAPE)


def masked(term, student, teacher, sizes=SIZES):
    return term({"p3": student}, {"p3": teacher}, image_sizes=sizes)["loss_t_p3"]


def test_cells_that_hold_a_pixel():
    inside = cells_of_images(torch.zeros(2, 3, 3, 4), 8, [(9, 32), (24, 17)])
    expected = [[[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], [[1, 1, 1, 0]] * 3]
    assert inside.squeeze(1).int().tolist() == expected
    assert cells_of_images(torch.zeros(2, 3, 3, 4), 8, [(17, 32), (24, 25)]) is None


@pytest.mark.parametrize("center", [True, False])
def test_an_image_counts_as_it_would_alone(center):
    student, teacher = maps()
    options = {"patch_size": 4, "grouping": "batch", "center": center}
    pairs = zip(crops(student), crops(teacher), strict=True)
    alone = [patch_cka(s, t, **options) for s, t in pairs]
    found = masked(terms(**options), student, teacher)
    torch.testing.assert_close(found, 1 - torch.stack(alone).mean())
    unmasked = masked(terms(**options), student, teacher, sizes=None)
    assert abs(found - unmasked) > 1e-3


@pytest.mark.parametrize("grouping", ["channel", "position"])
def test_gram_matrices_of_the_whole_batch(grouping):
    """The oracle centres each column over the patches of its image, and is 0 elsewhere."""
    student, teacher = maps()
    inside = cells_of_images(student, STRIDE, SIZES)

    def rows(x):  # (U V, B, C, P Q): a patch of 4x4 cells each
        parts = [x[..., 4 * u : 4 * u + 4, 4 * v : 4 * v + 4] for u in range(4) for v in range(3)]
        return torch.stack(parts).flatten(-2)

    real = rows(inside.expand_as(student))
    sides = []
    for x in (student, teacher):
        x = rows(x)
        for image in range(2):
            kept = real[:, image, 0, 0]  # whole patches
            x[kept, image] -= x[kept, image].mean(0)
        x = x * real
        x = x.permute(2, 0, 1, 3) if grouping == "channel" else x.permute(3, 0, 1, 2)
        sides.append(x.flatten(2))
    expected = 1 - cka(*sides, center=False).mean()
    torch.testing.assert_close(masked(terms(grouping=grouping), student, teacher), expected)


LOSSES = [
    ("PatchCKA", {}),
    ("PatchCKA", {"center": False}),
    ("PatchCKA", {"inter": True}),
    ("PatchCKA", {"debiased": True, "grouping": "batch"}),
    ("PatchCKA", {"patch_size": 5}),
    ("Mimic", {}),
    ("PKD", {}),
    ("CWD", {}),
    ("AT", {}),
]


@pytest.mark.parametrize(("loss", "arguments"), LOSSES)
def test_what_lies_in_the_padding_changes_nothing(loss, arguments):
    term = terms(loss, **arguments)
    student, teacher = maps()
    outside = ~cells_of_images(student, STRIDE, SIZES)
    expected = masked(term, student, teacher)
    for noise in (1.0, 1e6, torch.inf):
        others = [x.masked_fill(outside, noise).requires_grad_() for x in (student, teacher)]
        found = masked(term, *others)
        assert torch.equal(found, expected), noise
        gradient, _ = torch.autograd.grad(found, others, allow_unused=True)
        assert not gradient[outside.expand_as(gradient)].any()
        assert gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize(("loss", "arguments"), LOSSES)
def test_without_padding_it_is_the_plain_loss_to_the_bit(loss, arguments):
    term, sides = terms(loss, **arguments), maps()
    full = [(16 * STRIDE, 12 * STRIDE), (16 * STRIDE - 7, 12 * STRIDE)]
    assert torch.equal(masked(term, *sides, sizes=full), masked(term, *sides, sizes=None))


def test_the_gradient_is_that_of_the_loss():
    term = terms(grouping="channel", patch_size=3)
    student, teacher = maps(6, 6)
    sizes = [(6 * STRIDE, 3 * STRIDE), (4 * STRIDE, 6 * STRIDE)]
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: masked(term, s, teacher, sizes), student)


def test_mimic_sums_the_cells_of_the_images():
    student, teacher = maps()
    total = sum(
        mimic_loss(s, t) * s.numel() for s, t in zip(crops(student), crops(teacher), strict=True)
    )
    torch.testing.assert_close(masked(terms("Mimic"), student, teacher), total / student.numel())


def test_half_precision_is_centred_in_float32():
    sides = [(x.half() + 1000) for x in maps()]
    found = masked(terms(grouping="batch"), *sides)
    wanted = masked(terms(grouping="batch"), *(x.double() for x in sides))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-4)
