"""A run that is killed at any place and resumed ends in the same bits as one that was not."""

from dataclasses import replace

import pytest
import torch
from classifier_runs import (
    CPU,
    TERMS,
    add_tiny_models,
    equal,
    make_config,
    metrics,
    run_and_die,
    save_teacher,
    weights,
)

from pcka.classification import engine as engine_module
from pcka.classification.engine import Engine
from pcka.classification.models import create_model
from pcka.classification.train import train
from pcka.errors import ConfigError

NEVER = 1e9
AT_ONCE = 1e-9


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    add_tiny_models(monkeypatch)


def die_at_step(number):
    """Die in this step, after the forward pass."""

    def prepare(die):
        step = Engine._step

        def or_die(self, model, images, labels):
            if self.step == number:
                die()
            return step(self, model, images, labels)

        Engine._step = or_die

    return prepare


def die_writing_metrics(die):
    engine_module.write_metrics = die


def die_within_the_checkpoint_of(epoch):
    """Die when half of the file is written, under its temporary name."""

    def prepare(die):
        save = torch.save

        def or_die(content, path):
            save(content, path)
            if content.get("step") == epoch * 5:
                path.write_bytes(path.read_bytes()[:1000])
                die()

        torch.save = or_die

    return prepare


def die_before_the_summary(die):
    engine_module.write_json = die


EVERYTHING = {
    "student": {"name": "tiny_dropout"},
    "ce_weight": 0.5,
    "terms": [
        {**term, "schedule": {"kind": "linear", "warmup": 0.3, "off_at": 0.9}, **weight}
        for term, weight in zip(
            TERMS.values(), [{"weight": {"ratio": r}} for r in (0.5, 1)] + [{}] * 3, strict=True
        )
    ],
    "train": {
        "epochs": 3,
        "ema_decay": 0.9,
        "clip_grad_norm": 1.0,
        "nesterov": True,
        "warmup_epochs": 1,
        "label_smoothing": 0.1,
        "checkpoint_minutes": NEVER,
        "gradient_every": 2,
    },
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return config and folder of a run with adapters, dropout, a moving average and more."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        add_tiny_models(patch)
        tree = {**EVERYTHING, "teacher": save_teacher(folder / "t.pth")}
        cfg = make_config(folder / "run", tree)
        train(cfg, CPU)
    return cfg, folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "minutes", "first"),
    [
        (die_at_step(3), NEVER, 0),  # before any checkpoint
        (die_at_step(8), NEVER, 5),  # within the second epoch
        (die_at_step(8), AT_ONCE, 8),  # after a checkpoint within it
        (die_at_step(1), AT_ONCE, 1),
        (die_within_the_checkpoint_of(2), NEVER, 5),
        (die_within_the_checkpoint_of(2), AT_ONCE, 9),
        (die_writing_metrics, AT_ONCE, 4),
        (die_before_the_summary, NEVER, 15),
    ],
)
def test_killed_and_resumed_to_the_bit(
    uninterrupted, tmp_path, monkeypatch, prepare, minutes, first
):
    cfg, expected = uninterrupted
    cfg = replace(
        cfg,
        output_dir=str(tmp_path / "run"),
        train=replace(cfg.train, checkpoint_minutes=minutes),
    )
    run_and_die(cfg, prepare)
    started = []
    epoch = Engine._train_epoch
    monkeypatch.setattr(
        Engine,
        "_train_epoch",
        lambda self, *args: (started.append(self.step), epoch(self, *args))[1],
    )
    train(cfg, CPU, resume=True)
    assert [*started, 15][0] == first
    folder = tmp_path / "run"
    for name in ("student.pth", "student_ema.pth", "student_best.pth"):
        assert equal(weights(folder, name), weights(expected, name)), name
    assert metrics(folder) == metrics(expected)
    a, b = (torch.load(f / "checkpoint.pth", weights_only=True) for f in (folder, expected))
    assert equal(a["adapters"], b["adapters"]) and len(a["adapters"]) == 4
    assert a.keys() == b.keys() and a["step"] == b["step"] == 15


@pytest.mark.slow
def test_killed_twice(uninterrupted, tmp_path):
    cfg, expected = uninterrupted
    cfg = replace(cfg, output_dir=str(tmp_path / "run"))
    run_and_die(cfg, die_at_step(7))
    run_and_die(cfg, die_at_step(13), resume=True)
    train(cfg, CPU, resume=True)
    assert equal(weights(tmp_path / "run"), weights(expected))


def test_the_run_compared_with_uses_what_it_claims_to(uninterrupted):
    cfg, folder = uninterrupted
    rows = metrics(folder)
    assert len(rows) == 3
    for key in (
        "loss_hint_stage1",
        "loss_fcka_last",
        "cka/intra_logits",
        "weight/fcka_last",
        "ema_top1",
        "top5",
    ):
        assert key in rows[0]
    assert not equal(weights(folder), weights(folder, "student_ema.pth"))
    state = torch.load(folder / "checkpoint.pth", weights_only=True)
    assert not any("teacher" in key for key in [*state["model"], *state["adapters"]])


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "empty", "other model", "no key"])
def test_a_damaged_checkpoint_says_what_to_do(tmp_path, damage):
    cfg = make_config(tmp_path / "run")
    run_and_die(cfg, die_at_step(7))
    path = tmp_path / "run" / "checkpoint.pth"
    content = torch.load(path, weights_only=True)
    if damage == "other model":
        torch.save({**content, "model": create_model("tiny_wide", 10).state_dict()}, path)
    elif damage == "no key":
        torch.save({k: v for k, v in content.items() if k != "optimizer"}, path)
    else:
        path.write_bytes(path.read_bytes()[: 2000 if damage == "cut" else 0])
    with pytest.raises(ConfigError, match=r"run/checkpoint\.pth is damaged.*move it away") as error:
        train(cfg, CPU, resume=True)
    assert "\n" not in str(error.value)
