"""The look at the first batch names terms that drown the cross-entropy, and changes nothing."""

import logging

import pytest
import torch
from classifier_runs import (
    CPU,
    TERMS,
    add_tiny_models,
    equal,
    make_config,
    make_distiller,
    save_teacher,
)

from pcka.classification.first_batch import warn_of_loud_terms


@pytest.mark.parametrize(("weight", "loud"), [(1.0, False), (1e6, True), ({"ratio": 1e6}, False)])
def test_a_term_that_drowns_the_cross_entropy_is_named(tmp_path, monkeypatch, caplog, weight, loud):
    add_tiny_models(monkeypatch)
    terms = [TERMS["kd"], {**TERMS["hint"], "weight": weight}]
    cfg = make_config(tmp_path, {"teacher": save_teacher(tmp_path / "t.pth"), "terms": terms})
    distiller, data = make_distiller(cfg)
    before = {key: value.clone() for key, value in distiller.state_dict().items()}
    random = torch.get_rng_state()
    with caplog.at_level(logging.WARNING, "classification"):
        ratios = warn_of_loud_terms(cfg, distiller, data, CPU)
    assert ("hint_stage1 pulls" in caplog.text) == loud
    assert "kd_logits pulls" not in caplog.text
    assert equal(before, distiller.state_dict()) and torch.equal(random, torch.get_rng_state())
    assert set(ratios) == {"kd_logits"} | ({"hint_stage1"} if isinstance(weight, float) else set())
    assert all(p.grad is None for p in distiller.parameters())
