"""Which groupings depend on the order, or on a rotation, of the teacher's channels."""

import pytest
import torch

from pcka.core import patch_cka


def pair():
    student, teacher = (torch.randn(2, 8, 8, 8, dtype=torch.float64) for _ in range(2))
    return student + teacher, teacher  # related, channel by channel


def rotated(x):
    """Apply the same orthogonal map to the channels of every cell."""
    q, _ = torch.linalg.qr(torch.randn(8, 8, dtype=x.dtype))
    return torch.einsum("dc,bchw->bdhw", q, x)


def permuted(x):
    return x[:, torch.randperm(8).roll(1)]


CHANGES = {"permuted": permuted, "rotated": rotated}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("grouping", ["batch", "position"])
@pytest.mark.parametrize("center", [True, False])
def test_over_all_channels_neither_matters(change, grouping, center):
    options = {"grouping": grouping, "patch_size": 2, "center": center}
    student, teacher = pair()
    value = patch_cka(student, teacher, **options)
    torch.testing.assert_close(patch_cka(student, CHANGES[change](teacher), **options), value)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("options", [{"grouping": "channel"}, {"grouping": "batch", "inter": 1.0}])
def test_per_channel_both_do(change, options):
    """A rotated student knows every cell of the teacher, and is still far from CKA 1."""
    _, teacher = pair()
    assert patch_cka(teacher, teacher, patch_size=2, **options) == pytest.approx(1)
    value = patch_cka(CHANGES[change](teacher), teacher, patch_size=2, **options)
    chance = patch_cka(torch.randn_like(teacher), teacher, patch_size=2, **options)
    assert value < 0.5 * (1 + chance)


def test_per_channel_the_order_is_free_if_both_have_it():
    student, teacher = pair()
    order = torch.randperm(8)
    sides = student[:, order], teacher[:, order]
    options = {"grouping": "channel", "patch_size": 2}
    torch.testing.assert_close(patch_cka(*sides, **options), patch_cka(student, teacher, **options))


@pytest.mark.parametrize("change", CHANGES)
def test_the_student_is_taught_the_same_over_all_channels(change):
    student, teacher = pair()
    student.requires_grad_()
    slopes = [
        torch.autograd.grad(patch_cka(student, t, grouping="batch", patch_size=2), student)[0]
        for t in (teacher, CHANGES[change](teacher))
    ]
    torch.testing.assert_close(*slopes)
