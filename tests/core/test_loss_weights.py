"""Shares and gradient ratios of distillation losses, compared with values worked out by hand."""

import pytest
import torch

from pcka.core import Schedule, gradient_ratios, loss_shares
from pcka.core.pairing import Pairing


def pairings(**student):
    return {key: Pairing(name, name, 1.0, Schedule(), None, None) for key, name in student.items()}


def test_shares_are_of_the_whole_loss():
    losses = {"loss_ce": 3.0, "loss_kd": 1.0, "loss_fcka": 4.0}
    pairs = pairings(kd="logits", fcka="last")
    assert loss_shares(pairs, losses) == {"share/kd": 0.125, "share/fcka": 0.5}
    assert loss_shares(pairs, dict.fromkeys(losses, 0.0)) == {"share/kd": 0.0, "share/fcka": 0.0}


def losses_of(x):
    """Return ``hidden`` and losses with the gradients 3 (own, two), hidden, and 1 in one entry."""
    hidden = 2 * x
    return hidden, {
        "loss_cls": hidden.sum(),
        "loss_box": 2 * hidden.sum(),
        "loss_a": hidden.square().sum() / 2,
        "loss_b": hidden[0, 0],
    }


def test_ratios_by_hand():
    x = torch.tensor([[1.0, 2.0], [-2.0, 4.0]], dtype=torch.float64, requires_grad=True)
    hidden, losses = losses_of(x)
    ratios = gradient_ratios(pairings(a="h", b="h"), losses, {"h": hidden})
    # |2 x| = 10 and |(1, 0, 0, 0)| = 1 over |(3, 3, 3, 3)| = 6
    assert ratios["gradient/a"].item() == pytest.approx(10 / 6, rel=1e-12)
    assert ratios["gradient/b"].item() == pytest.approx(1 / 6, rel=1e-12)


def test_the_backward_that_follows_is_the_same():
    def backward(measure):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
        hidden, losses = losses_of(x)
        if measure:
            gradient_ratios(pairings(a="h", b="h"), losses, {"h": hidden})
        assert x.grad is None
        sum(losses.values()).backward()
        return x.grad

    assert torch.equal(backward(True), backward(False))


def test_small_gradients_of_float16_are_not_lost():
    x = torch.ones(4, dtype=torch.float16, requires_grad=True)
    own, pull = x.float().sum() * 2e-8, x.float().sum() * 1e-8  # float16 ends at 6e-8
    ratios = gradient_ratios(pairings(a="x"), {"loss_own": own, "loss_a": pull}, {"x": x})
    assert ratios["gradient/a"].item() == pytest.approx(0.5, rel=0.01)


def test_what_has_no_ratio_is_left_out():
    x, frozen = torch.ones(3, requires_grad=True), torch.ones(3)
    unread = 2 * x
    losses = {"loss_own": x.sum(), "loss_a": unread.sum(), "loss_b": (frozen * x).sum()}
    features = {"unread": unread, "frozen": frozen}
    pairs = pairings(a="unread", b="frozen")
    assert gradient_ratios(pairs, losses, features) == {}
    assert gradient_ratios(pairs, {k: losses[k] for k in ("loss_a", "loss_b")}, features) == {}


def test_a_term_that_is_off_has_no_ratio():
    x = torch.ones(2, 2, requires_grad=True)
    hidden, losses = losses_of(x)
    adapter = torch.ones(3, requires_grad=True)
    losses |= {"loss_a": torch.zeros(()), "loss_b": adapter.sum() * 0}
    assert gradient_ratios(pairings(a="h", b="h"), losses, {"h": hidden}) == {}
