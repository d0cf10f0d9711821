"""A term's schedule in classification: by steps, in the losses and in the metrics."""

from pathlib import Path

import pytest
from classifier_runs import (
    CPU,
    TERMS,
    add_tiny_models,
    make_config,
    make_distiller,
    metrics,
    save_teacher,
)

from pcka.classification.config import load_config, save_config
from pcka.classification.teacher import Teacher
from pcka.classification.train import train
from pcka.errors import ConfigError


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    add_tiny_models(monkeypatch)


def config(path, schedule, **tree):
    teacher = save_teacher(path.with_suffix(".pth"))
    term = {**TERMS["fcka"], "weight": 2.0, "schedule": schedule}
    return make_config(path, {"teacher": teacher, "terms": [term], **tree})


def test_the_teacher_rests_once_all_terms_are_off(tmp_path, monkeypatch):
    """The terms are off from the eighth of ten steps; metrics are means over an epoch's steps."""
    calls, teach = [], Teacher.__call__
    monkeypatch.setattr(
        Teacher, "__call__", lambda self, images: calls.append(len(images)) or teach(self, images)
    )
    cfg = config(tmp_path / "run", {"off_at": 0.7}, train={"lr": 1e-12, "epochs": 2})
    distiller, data = make_distiller(cfg)
    calls.clear()
    losses = [distiller(*batch)["loss_fcka_last"].item() for batch in data.train.epoch(1)]
    calls.clear()
    train(cfg, CPU)
    # One more call checks a batch of that size beforehand, and one measures the teacher.
    assert [n for n in calls if n in (32, 17)][-7:] == [32, 32, 32, 32, 17, 32, 32]
    row = metrics(tmp_path / "run")[1]
    assert float(row["loss_fcka_last"]) == pytest.approx(sum(losses[:2]) / 5, rel=1e-5)
    assert float(row["cka/fcka_last"]) == pytest.approx(1 - sum(losses[:2]) / 4, abs=1e-5)


def test_a_schedule_is_part_of_the_config(tmp_path):
    cfg = config(tmp_path / "run", {"kind": "cosine", "warmup": 0.1})
    save_config(cfg, tmp_path / "saved.yaml")
    assert load_config([tmp_path / "saved.yaml"]) == cfg
    changed = load_config([tmp_path / "saved.yaml"], ["terms.fcka.schedule.end", "0.5"])
    assert changed.terms[0].schedule == {"kind": "cosine", "warmup": 0.1, "end": 0.5}
    for key, value, words in (
        ("kind", "cos", "term 'fcka': schedule: unknown kind 'cos'"),
        ("endd", "0.5", "term 'fcka': schedule is a mapping with kind, end, warmup, off_at"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config([tmp_path / "saved.yaml"], [f"terms.fcka.schedule.{key}", value])


def test_something_is_left_to_train_with(tmp_path):
    with pytest.raises(ConfigError, match="ce_weight is 0 and every term is off"):
        config(tmp_path / "run", {"off_at": 0.7}, ce_weight=0)


def test_warm_up_of_the_published_dkd():
    root = Path(__file__).parents[2] / "configs" / "classification"
    cfg = load_config([root / "pairs/resnet32x4_resnet8x4.yaml", root / "methods/dkd.yaml"])
    schedule = cfg.terms[0].build_schedule()
    assert schedule.warmup * cfg.train.epochs == pytest.approx(20)
    assert cfg.terms[0].loss_args == {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}
    factors = [schedule.factor(epoch / 240) for epoch in (10, 20, 239)]
    assert factors == pytest.approx([0.5, 1, 1])
