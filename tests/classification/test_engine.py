"""Training: it equals the plain loop to the bit, and every option has its effect."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from classifier_runs import (
    CPU,
    TERMS,
    add_tiny_models,
    equal,
    make_config,
    make_distiller,
    metrics,
    save_teacher,
    weights,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from pcka.classification import engine as engine_module
from pcka.classification.config_sections import TrainConfig
from pcka.classification.data import build_data
from pcka.classification.data.batches import seed_of
from pcka.classification.engine import Engine
from pcka.classification.meter import LossMeter
from pcka.classification.models import create_model
from pcka.classification.schedule import learning_rate
from pcka.classification.train import train


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    add_tiny_models(monkeypatch)


def plain_training(cfg, model):
    """Train as tutorials do: SGD, a step schedule, cross-entropy."""
    data = build_data(cfg.data, batch_size=cfg.train.batch_size, seed=cfg.seed, device="cpu")
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], gamma=0.1)
    for epoch in range(2):
        model.train()
        for images, labels in data.train.epoch(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        scheduler.step()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("how", ["alone", "weight 0", "resnet8"])
def test_without_terms_it_is_plain_training_to_the_bit(tmp_path, how):
    name = "resnet8" if how == "resnet8" else "tiny"
    tree = {"student": {"name": name}}
    if how == "weight 0":
        tree["terms"] = [{**TERMS["fcka"], "weight": 0.0}]
    cfg = make_config(tmp_path / "run", tree)
    train(cfg, CPU)
    torch.manual_seed(seed_of(cfg.seed))
    plain = plain_training(cfg, create_model(name, 10))
    assert equal(weights(tmp_path / "run"), plain.state_dict())


def test_dropout_draws_anew_in_every_step_and_process(tmp_path, monkeypatch):
    cfg = make_config(tmp_path / "run")
    distiller, data = make_distiller(cfg)
    seeds = [seed_of(cfg.seed, epoch) for epoch in range(10)]  # of the order of images
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    for rank in (0, 1):
        engine = Engine(cfg, data, distiller, replace(CPU, rank=rank), tmp_path)
        engine._train_epoch(distiller, 0, engine_module.tqdm(disable=True))
    assert len(set(seeds)) == len(seeds) == 20


def test_metrics_hold_the_mean_of_the_epoch(tmp_path):
    cfg = make_config(tmp_path / "run", {"train": {"lr": 1e-12, "epochs": 1, "milestones": []}})
    train(cfg, CPU)
    distiller, data = make_distiller(cfg)
    losses = [distiller(*batch)["loss_ce"].item() for batch in data.train.epoch(0)]
    [row] = metrics(tmp_path / "run")
    assert float(row["loss_ce"]) == pytest.approx(sum(losses) / 5, rel=1e-6)
    assert (row["epoch"], float(row["lr"])) == ("1", 1e-12)


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_measured_gradients_change_nothing_else(tmp_path, amp):
    tree = {
        "teacher": save_teacher(tmp_path / "t.pth"),
        "terms": [TERMS["kd"], TERMS["fcka"], TERMS["hint"]],
        "train": {"amp": amp, "epochs": 2, "milestones": [1]},
        "student": {"name": "tiny_dropout"},
    }
    for name, every in (("off", 0), ("on", 2)):
        cfg = make_config(tmp_path / name, tree, "train.gradient_every", str(every))
        train(cfg, CPU)
    assert equal(weights(tmp_path / "off"), weights(tmp_path / "on"))
    keys = [f"gradient/{key}" for key in ("kd_logits", "fcka_last", "hint_stage1")]
    for off, on in zip(metrics(tmp_path / "off"), metrics(tmp_path / "on"), strict=True):
        assert off == {key: value for key, value in on.items() if key not in keys}
        assert all(0 < float(on[key]) < 1e3 for key in keys)
        losses = {k: float(v) for k, v in on.items() if k.startswith("loss_")}
        share = losses["loss_fcka_last"] / sum(losses.values())
        assert float(on["share/fcka_last"]) == pytest.approx(share, rel=1e-9)


@pytest.mark.slow
def test_pictures_in_tensorboard_change_nothing_else(tmp_path):
    tree = {
        "teacher": save_teacher(tmp_path / "t.pth"),
        "terms": [TERMS["kd"]],
        "train": {"epochs": 2, "milestones": [1]},
        "student": {"name": "tiny_dropout"},
    }
    for name, every in (("off", 0), ("on", 2)):
        train(make_config(tmp_path / name, tree, "train.picture_every", str(every)), CPU)
    assert equal(weights(tmp_path / "off"), weights(tmp_path / "on"))
    pictures = {}
    for name in ("off", "on"):
        events = EventAccumulator(str(tmp_path / name / "tensorboard")).Reload()
        tags = events.Tags()["images"]
        pictures[name] = {tag: [e.step for e in events.Images(tag)] for tag in tags}
    assert pictures == {"off": {}, "on": {"layers_student": [10], "logits": [10]}}


def test_gradients_are_the_mean_of_the_measured_steps(tmp_path):
    """The oracle is the mean over steps 2 and 4 of five, by hand, at learning rate 0."""
    tree = {
        "teacher": save_teacher(tmp_path / "t.pth"),
        "terms": [TERMS["fcka"]],
        "train": {"lr": 1e-12, "epochs": 1, "milestones": [], "gradient_every": 2},
    }
    cfg = make_config(tmp_path / "run", tree)
    train(cfg, CPU)
    distiller, data = make_distiller(cfg)
    distiller.train()
    ratios = []
    for images, labels in data.train.epoch(0):
        with distiller._tapped.taps.record() as features:
            losses = distiller(images, labels)
        own, pull = (
            torch.autograd.grad(losses[name], features["last"], retain_graph=True)[0].norm()
            for name in ("loss_ce", "loss_fcka_last")
        )
        ratios.append((pull / own).item())
    [row] = metrics(tmp_path / "run")
    assert float(row["gradient/fcka_last"]) == pytest.approx((ratios[1] + ratios[3]) / 2, rel=1e-5)


def test_evaluates_and_saves_as_often_as_asked(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Engine, "save_checkpoint", lambda self: saved.append(self.step))
    tree = {"train": {"epochs": 5, "eval_every": 2, "checkpoint_every": 3}}
    train(make_config(tmp_path / "run", tree), CPU)
    assert [row["epoch"] for row in metrics(tmp_path / "run")] == ["2", "4", "5"]
    assert saved == [15, 25]


def test_clipping_bounds_the_step(tmp_path):
    """A step without momentum and decay is lr times the gradient."""
    options = {"momentum": 0.0, "weight_decay": 0.0, "clip_grad_norm": 1e-3, "lr": 1.0}
    cfg = make_config(tmp_path / "run", {"train": options})
    distiller, data = make_distiller(cfg)
    engine = Engine(cfg, data, distiller, CPU, tmp_path)
    before = nn.utils.parameters_to_vector(distiller.parameters()).detach()
    engine._step(distiller, *next(iter(data.train.epoch(0))))
    after = nn.utils.parameters_to_vector(distiller.parameters()).detach()
    assert (after - before).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_the_moving_average_follows_parameters_and_statistics(tmp_path):
    cfg = make_config(tmp_path / "run", {"train": {"ema_decay": 0.75}})
    distiller, data = make_distiller(cfg)
    engine = Engine(cfg, data, distiller, CPU, tmp_path)
    expected = None
    for images, labels in data.train.epoch(0):
        engine._step(distiller, images, labels)
        engine.count(1)
        state = {k: v.clone() for k, v in engine.student.state_dict().items()}
        state.pop("stage1.1.num_batches_tracked"), state.pop("stage2.1.num_batches_tracked")
        expected = (
            state
            if expected is None
            else {k: 0.75 * v + 0.25 * state[k] for k, v in expected.items()}
        )
    for name, value in expected.items():
        torch.testing.assert_close(engine.update.ema.module.state_dict()[name], value, msg=name)


def test_bf16_and_channels_last_train_about_the_same(tmp_path):
    plain = make_config(tmp_path / "plain", {"train": {"epochs": 1, "milestones": []}})
    quick = replace(
        plain,
        output_dir=str(tmp_path / "quick"),
        train=replace(plain.train, amp="bf16", channels_last=True),
    )
    for cfg in (plain, quick):
        train(cfg, CPU)
    [a], [b] = metrics(tmp_path / "plain"), metrics(tmp_path / "quick")
    assert a["loss_ce"] != b["loss_ce"]
    assert float(a["loss_ce"]) == pytest.approx(float(b["loss_ce"]), rel=0.01)
    assert weights(tmp_path / "quick")["fc.weight"].dtype is torch.float32


def test_a_loss_that_is_not_finite_stops_by_name_before_it_is_saved(tmp_path):
    terms = [{**TERMS["kd"], "weight": 1e-3}, TERMS["fcka"]]
    tree = {"teacher": save_teacher(tmp_path / "t.pth"), "terms": terms, "train": {"lr": 1e30}}
    cfg = make_config(tmp_path / "run", tree, "train.checkpoint_minutes", "1e-9")
    with pytest.raises(FloatingPointError, match=r"by step \d: .*loss_kd_logits.*train\.lr"):
        train(cfg, CPU)
    state = torch.load(tmp_path / "run" / "checkpoint.pth", weights_only=True)
    assert all(value.isfinite() for value in state["meter"]["sums"].values())


def test_weights_that_diverge_in_the_last_step_do_not_pass(tmp_path, monkeypatch):
    cfg = make_config(tmp_path / "run", {"train": {"epochs": 1, "milestones": []}})
    step = Engine._step

    def diverge(self, *args):
        losses = step(self, *args)
        if self.step == 4:
            self.student.fc.weight.data.fill_(math.nan)
        return losses

    monkeypatch.setattr(Engine, "_step", diverge)
    with pytest.raises(FloatingPointError, match="1293 of 1293 evaluated images"):
        train(cfg, CPU)
    assert not (tmp_path / "run" / "student.pth").exists()


def test_schedule_by_hand():
    def rates(*steps, **options):
        cfg = TrainConfig(lr=0.8, **options)
        return [learning_rate(cfg, step, steps_per_epoch=10) for step in steps]

    milestones = {"epochs": 10, "milestones": (3, 6), "gamma": 0.5}
    assert rates(0, 29, 30, 59, 60, 99, **milestones) == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    cosine = {"epochs": 4, "schedule": "cosine"}
    assert rates(0, 10, 20, 30, 40, **cosine) == pytest.approx(
        [0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5)), 0], abs=1e-15
    )
    # In two epochs of ten steps the rate is a twentieth at first, and full in the twentieth step.
    warm = rates(0, 9, 19, 20, epochs=10, milestones=(), warmup_epochs=2)
    assert warm == pytest.approx([0.04, 0.4, 0.8, 0.8])
    assert rates(0, **cosine, warmup_epochs=1) == pytest.approx([0.08])


def test_the_meter_resumes_in_the_middle():
    whole, half, rest = LossMeter(), LossMeter(), LossMeter()
    values = torch.arange(6.0).sqrt()
    for i, value in enumerate(values):
        whole.add({"a": value, "b": 2 * value})
        if i < 3:
            half.add({"a": value, "b": 2 * value})
    rest.load_state_dict(half.state_dict())
    for value in values[3:]:
        rest.add({"a": value, "b": 2 * value})
    assert rest.means(CPU) == whole.means(CPU)
    assert whole.means(CPU)["a"] == pytest.approx(values.mean().item())
    assert whole.check_finite(6) == pytest.approx(3 * values.mean().item())
