"""Losses are checked and logged between backward and the optimizer's step."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from pcka.detection.modeling.step_report import StepReport


def test_it_logs_what_it_is_told_in_the_iteration_that_it_belongs_to():
    with EventStorage(7) as storage:
        losses, figures = {"a": torch.tensor(2.0)}, {"weight/a": torch.tensor(0.5)}
        report = StepReport(losses, lambda values: {"twice": 2 * values["a"]}, figures)
        assert "twice" not in storage.latest()
        report.finish()
        assert storage.latest()["twice"] == (4.0, 7)
        assert storage.latest()["weight/a"] == (0.5, 7)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_named(value):
    with EventStorage(3):
        report = StepReport({"good": torch.tensor(1.0), "bad": torch.tensor(value)}, dict)
        with pytest.raises(FloatingPointError, match=r"iteration 3: .*'bad'"):
            report.finish()
