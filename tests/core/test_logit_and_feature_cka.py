"""FCKA, LCKA and RCKA: comparison with the oracle and the released code's figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pcka.core import RCKA, FeatureCKA, LogitCKA, feature_cka, logit_cka, rcka, reference

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())["logits"]
F64 = torch.float64
# The released code's figures with row-normalised Gram matrices, on the same logits.
NORMALIZED = {
    10: (0.7690137665347012, 0.6473427964948801),
    11: (0.9398973408653096, 0.5322169819258483),
}


def logits(case):
    g = np.random.default_rng(case["seed"])
    t = 3 * g.standard_normal(case["shape"])
    return torch.tensor(g.standard_normal(case["shape"]) + 0.3 * t), torch.tensor(t)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"seed{c['seed']}")
def test_released_figures(case):
    plain = case["over_samples"], case["over_classes"]
    for normalize, wanted in ((False, plain), (True, NORMALIZED[case["seed"]])):
        for relation, figure in zip(("intra", "inter"), wanted, strict=True):
            value = logit_cka(
                *logits(case), relation=relation, normalize_rows=normalize, center=False
            )
            assert value.item() == pytest.approx(figure, abs=1e-9)


@pytest.mark.parametrize("relation", ["intra", "inter"])
@pytest.mark.parametrize("temperature", [None, 4.0])
@pytest.mark.parametrize(
    "options", [{}, {"center": False}, {"debiased": True}, {"normalize_rows": True}], ids=str
)
def test_logit_gradcheck(relation, temperature, options):
    student = torch.randn(6, 9, dtype=F64, requires_grad=True)
    teacher = torch.randn(6, 9, dtype=F64)
    assert torch.autograd.gradcheck(
        lambda s: logit_cka(s, teacher, relation=relation, temperature=temperature, **options),
        student,
    )


def test_temperature_relates_probabilities():
    s, t = torch.randn(8, 5, dtype=F64), torch.randn(8, 5, dtype=F64)
    wanted = reference.cka((s / 4).softmax(-1).T, (t / 4).softmax(-1).T)
    torch.testing.assert_close(logit_cka(s, t, relation="inter", temperature=4.0), wanted)


@pytest.mark.parametrize("center", [True, False])
def test_features_of_any_width(center):
    s, t = torch.randn(3, 5, 7, 9, dtype=F64), torch.randn(3, 11, 4, dtype=F64)
    wanted = reference.cka(s.flatten(1), t.flatten(1), center=center)
    torch.testing.assert_close(feature_cka(s, t, center=center), wanted)
    s.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: feature_cka(s, t, center=center), s, fast_mode=True)


def test_rcka_is_the_weighted_sum():
    sf, tf = [torch.randn(6, 4, 3, 3), torch.randn(6, 8)], [torch.randn(6, 9), torch.randn(6, 8)]
    sl, tl = torch.randn(6, 10), torch.randn(6, 10)
    loss = rcka(sf, tf, sl, tl, feature_weight=3.0, intra_weight=2.0, inter_weight=0.5)
    feature = (feature_cka(sf[0], tf[0]) + feature_cka(sf[1], tf[1])) / 2
    wanted = 3 * (1 - feature) + 2 * (1 - logit_cka(sl, tl))
    wanted = wanted + 0.5 * (1 - logit_cka(sl, tl, relation="inter"))
    torch.testing.assert_close(loss, wanted)
    module = RCKA(feature_weight=3.0, intra_weight=2.0, inter_weight=0.5)
    assert torch.equal(module(sf, tf, sl, tl), loss)
    assert rcka(tf, tf, tl, tl).item() == pytest.approx(0, abs=1e-6)
    # A term of weight 0 is not computed, so its inputs may be missing.
    assert rcka([], [], sl, tl, feature_weight=0) > 0


def test_modules_are_one_minus_the_functions():
    s, t = torch.randn(5, 7), torch.randn(5, 7)
    assert torch.equal(FeatureCKA(center=False)(s, t), 1 - feature_cka(s, t, center=False))
    loss = LogitCKA(relation="inter", temperature=2.0)
    assert torch.equal(loss(s, t), 1 - logit_cka(s, t, relation="inter", temperature=2.0))
    assert "relation='inter'" in repr(loss)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: feature_cka(torch.ones(3, 4), torch.ones(4, 4)), r"\(3, 4\).*\(4, 4\)"),
        (lambda: feature_cka(torch.ones(3), torch.ones(3)), r"\(3,\)"),
        (lambda: feature_cka(torch.ones(1, 4), torch.ones(1, 4)), r"1 sample.*\(1, 4\)"),
        (lambda: logit_cka(torch.ones(3, 4, 1), torch.ones(3, 4)), r"\(3, 4, 1\)"),
        (
            lambda: logit_cka(torch.ones(3, 4), torch.ones(3, 5), relation="inter"),
            r"same classes.*\(3, 5\)",
        ),
        (lambda: logit_cka(torch.ones(3, 4), torch.ones(3, 4), relation="x"), "intra, inter"),
        (lambda: LogitCKA(temperature=0.0), "positive"),
        (lambda: LogitCKA(normalize_rows=True, debiased=True), "one of the two"),
        (lambda: LogitCKA(gather=1), "gather is true or false, got 1"),
        (lambda: FeatureCKA(center=False, debiased=True), "leave center=True"),
        (lambda: RCKA(weight=1), "unknown argument weight"),
        (lambda: rcka([], [], torch.ones(3, 4), torch.ones(3, 4)), "0 feature stages"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
