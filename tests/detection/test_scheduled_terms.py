"""A term's schedule in detection: by iterations, and without a teacher once all terms are off."""

import pytest
import torch
from detector_runs import train
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage, get_event_storage

from pcka.detection import ConfigError
from pcka.detection.checks.preflight import check_run
from pcka.detection.modeling.distilled_detector import DistilledDetector


def terms(**schedule):
    return [
        "MODEL.PCKA.TERMS",
        [{"FEATURES": ["p3"], "LOSS_ARGS": {"patch_size": 2}, "WEIGHT": 2.0, "SCHEDULE": schedule}],
    ]


def test_the_weight_falls_with_the_iterations(tiny, batch):
    inputs = batch()
    constant, linear = (
        build_model(tiny(*terms(**schedule), "SOLVER.MAX_ITER", 10)).train()
        for schedule in ({}, {"kind": "linear", "end": 0.5})
    )
    linear.load_state_dict(constant.state_dict())
    for iteration, factor in ((0, 0.975), (4, 0.775), (9, 0.525)):
        found = []
        for model in (constant, linear):
            torch.manual_seed(0)
            with EventStorage(iteration) as storage:
                loss = model(inputs)["loss_pcka_p3"].item()
                found.append((loss, storage.latest()["cka/pcka_p3"][0]))
        (full, cka), (scheduled, same) = found
        assert scheduled == pytest.approx(factor * full, rel=1e-6)
        assert same == pytest.approx(cka, abs=1e-6)


def test_the_teacher_rests_once_all_terms_are_off(tiny, monkeypatch):
    """The terms are off from iteration 3, that of SOLVER.STEPS; in a resumed run as well."""
    cfg = tiny(
        *terms(off_at=0.6),
        "SOLVER.MAX_ITER",
        5,
        "SOLVER.STEPS",
        (3,),
        "SOLVER.CHECKPOINT_PERIOD",
        4,
        "TEST.EVAL_PERIOD",
        0,
    )
    calls, losses = [], []
    forward = DistilledDetector.forward

    def recorded(self, inputs):
        teach = self.teacher.model.backbone.forward
        self.teacher.model.backbone.forward = lambda x: calls.append(iteration()) or teach(x)
        found = forward(self, inputs)
        self.teacher.model.backbone.forward = teach
        if self.training:
            losses.append(found["loss_pcka_p3"].item())
        return found

    def iteration():
        return get_event_storage().iter

    monkeypatch.setattr(DistilledDetector, "forward", recorded)
    train(cfg)
    assert calls == [0, 1, 2]
    assert all(losses[:3]) and losses[3:] == [0, 0]


def test_unknown_key_of_a_schedule(tiny):
    with pytest.raises(ConfigError, match=r"TERMS\[0\]: term 'pcka': schedule is a mapping with"):
        check_run(tiny(*terms(decay="linear")))
