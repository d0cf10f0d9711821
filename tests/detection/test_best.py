"""The best checkpoint: kept over the evaluations, and over a resume."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detector_runs import train

from pcka.detection import ConfigError, Trainer
from pcka.detection.engine.best import BestHook, box_ap

SCHEDULE = ("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 2)


@pytest.fixture
def rated(monkeypatch):
    """Evaluations return one AP of a list after the other, and keep the weights that they saw."""
    seen = []

    def rate(values):
        values = iter(values)

        def test(cls, cfg, model, evaluators=None):
            seen.append({k: v.clone() for k, v in model.student.state_dict().items()})
            return {"bbox": {"AP": next(values)}}

        monkeypatch.setattr(Trainer, "test", classmethod(test))
        return seen

    return rate


def content(cfg, name):
    with open(f"{cfg.OUTPUT_DIR}/{name}") as file:
        return json.load(file)


def same(path, state):
    found = torch.load(path, weights_only=True)["model"]
    return found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


def test_the_best_is_kept_beside_the_last(tiny, rated):
    cfg, seen = tiny(*SCHEDULE), rated([10.0, 30.0, 20.0])
    train(cfg)
    assert same(f"{cfg.OUTPUT_DIR}/model_best.pth", seen[1])
    assert content(cfg, "summary.json")["best"] == {"iteration": 4, "AP": 30.0}
    assert content(cfg, "summary.json")["results"]["bbox"]["AP"] == 20.0
    with open(f"{cfg.OUTPUT_DIR}/last_checkpoint") as file:
        assert file.read() == "model_final.pth"


def test_a_resumed_run_keeps_its_best(tiny, rated, monkeypatch):
    cfg = tiny(*SCHEDULE)
    seen = rated([50.0, 10.0])
    step = Trainer.run_step

    def dies(self):
        if self.iter == 4:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "run_step", dies)
        train(cfg)
    best = seen[0]
    rated([20.0])
    train(cfg, resume=True)
    assert same(f"{cfg.OUTPUT_DIR}/model_best.pth", best)
    assert [e["AP"] for e in content(cfg, "best.json")] == [50.0, 10.0, 20.0]
    assert content(cfg, "summary.json")["best"] == {"iteration": 2, "AP": 50.0}


@pytest.mark.parametrize("text", ['{"iteration": 2}', "[1]", '[{"iteration": 2}]', "[{"])
def test_a_damaged_record_is_named(tiny, text):
    cfg, hook = tiny(*SCHEDULE), BestHook()
    hook.trainer = Namespace(cfg=cfg, start_iter=2)
    Path(cfg.OUTPUT_DIR).mkdir()
    Path(cfg.OUTPUT_DIR, "best.json").write_text(text)
    with pytest.raises(ConfigError, match=r"best\.json is .*remove it"):
        hook.before_train()


@pytest.mark.parametrize(
    ("results", "ap"),
    [
        ({}, None),
        ({"bbox": {"AP": 3.0}, "segm": {"AP": 1.0}}, 3.0),
        ({"val": {"bbox": {"AP": 3.0}}, "test": {"bbox": {"AP": 9.0}}}, 3.0),
        ({"sem_seg": {"mIoU": 3.0}}, None),
        ({"bbox": {"AP": float("nan")}}, None),
    ],
)
def test_the_figure_that_counts(results, ap):
    assert box_ap(results) == ap
