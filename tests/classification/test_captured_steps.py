"""Captured steps on a CPU: a recorded function is called in place of a replay."""

import logging
from dataclasses import replace

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
    weights,
)
from classifier_runs import metrics as rows_of
from torch.utils._python_dispatch import TorchDispatchMode

from pcka.classification import captured_steps
from pcka.classification import engine as engine_module
from pcka.classification.captured_steps import CapturedSteps, what_forbids, why_not
from pcka.classification.engine import Engine
from pcka.classification.train import train

TREE = {
    "student": {"name": "tiny"},
    "ce_weight": 0.5,
    "terms": [TERMS["kd"], TERMS["fcka"], {**TERMS["hint"], "schedule": {"off_at": 0.6}}],
    "train": {
        "epochs": 5,
        "batch_size": 13,  # eleven batches, and one of two images
        "ema_decay": 0.9,
        "clip_grad_norm": 1.0,
        "nesterov": True,
        "warmup_epochs": 1,
        "log_every": 3,
    },
}


class NoWaiting(TorchDispatchMode):
    """A mode that refuses what a CUDA graph cannot hold: values read by the host, or as sizes."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if name.split(".")[0] in self.FORBIDDEN:
            raise RuntimeError(f"a capture would have to wait for {name}")
        boolean = [i for i in (args[1] if name == "index" else ()) if i is not None]
        if any(i.dtype is torch.bool for i in boolean):
            raise RuntimeError("a capture would have to wait for an index by a mask")
        return function(*args, **(kwargs or {}))


@pytest.fixture
def rehearsed(monkeypatch):
    """Make capture call the recorded function on a CPU; return the steps of every recording."""
    recorded = []

    def record(self, body):
        recorded.append(body)
        return body

    monkeypatch.setattr(engine_module, "why_not", what_forbids)
    monkeypatch.setattr(CapturedSteps, "_capture", record)
    return recorded


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    add_tiny_models(monkeypatch)


def make(tmp_path, name, **train_options):
    tree = {**TREE, "teacher": save_teacher(tmp_path / "t.pth")}
    tree["train"] = {**TREE["train"], **train_options}
    return make_config(tmp_path / name, tree)


def direct_run(cfg):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "why_not", why_not)
        train(cfg, CPU)


def assert_equal_runs(a, b):
    for name in ("student.pth", "student_ema.pth"):
        assert equal(weights(a, name), weights(b, name)), name
    assert rows_of(a) == rows_of(b)
    states = [torch.load(f / "checkpoint.pth", weights_only=True) for f in (a, b)]
    assert states[0]["ema"]["n_averaged"] == states[1]["ema"]["n_averaged"]
    momentum = [[s["momentum_buffer"] for s in x["optimizer"]["state"].values()] for x in states]
    assert all(map(torch.equal, *momentum))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_every": 7}, {"amp": "bf16", "channels_last": True}, {"ratio": True}],
)
def test_captured_steps_give_the_run_to_the_bit(tmp_path, rehearsed, monkeypatch, options):
    if options.pop("ratio", False):
        terms = [{**term, "weight": {"ratio": 0.5}} for term in TREE["terms"]]
        monkeypatch.setitem(TREE, "terms", terms)
    direct_run(make(tmp_path, "direct", **options))
    assert not rehearsed
    train(make(tmp_path, "captured", **options), CPU)
    assert len(rehearsed) >= 3  # groups with every term, the rest of an epoch, without the hint
    assert_equal_runs(tmp_path / "direct", tmp_path / "captured")


@pytest.mark.slow
def test_steps_that_draw_go_one_by_one(tmp_path, rehearsed, monkeypatch):
    groups = []
    group = CapturedSteps._group
    monkeypatch.setattr(
        CapturedSteps, "_group", lambda *a: (groups.append(group(*a)), groups[-1])[1]
    )
    for name, student, most in (("drawing", "tiny_dropout", 1), ("plain", "tiny", 4)):
        cfg = make(tmp_path, name)
        cfg = replace(cfg, student=replace(cfg.student, name=student))
        groups.clear()
        train(cfg, CPU)
        assert max(groups[1:]) == most
        direct_run(replace(cfg, output_dir=str(tmp_path / f"{name}_direct")))
        assert_equal_runs(tmp_path / name, tmp_path / f"{name}_direct")


@pytest.mark.slow
def test_a_captured_run_that_stopped_goes_on(tmp_path, rehearsed, monkeypatch):
    cfg = make(tmp_path, "run", checkpoint_minutes=1e-9)
    save, at = Engine.save_checkpoint, []

    def stop(self):
        save(self)
        at.append(self.step)
        if self.step > 24:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Engine, "save_checkpoint", stop)
        train(cfg, CPU)
    assert at[-1] % 12  # within an epoch
    train(cfg, CPU, resume=True)
    direct_run(make(tmp_path, "direct"))
    assert_equal_runs(tmp_path / "run", tmp_path / "direct")


def test_a_loss_that_is_not_finite_is_named(tmp_path, rehearsed):
    with pytest.raises(FloatingPointError, match=r"by step \d+: .*loss_kd_logits.*train\.lr"):
        train(make(tmp_path, "run", lr=1e30, clip_grad_norm=None, warmup_epochs=0), CPU)


def test_no_step_waits_for_the_device(tmp_path, rehearsed, monkeypatch):
    """A captured step neither reads a value on the host nor takes a shape from one."""
    # Only a CPU checks whether features have a safe size, and reads the rate as a number.
    monkeypatch.setattr("pcka.core.grams._is_safe", lambda x: False)
    step = torch.optim.SGD.step
    taken = []

    def without_watch(self, *args):
        with torch.utils._python_dispatch._disable_current_modes():
            return step(self, *args)

    def watched(self, body):
        def replay():
            with NoWaiting():
                body()
            taken.append(1)

        return replay

    monkeypatch.setattr(torch.optim.SGD, "step", without_watch)
    monkeypatch.setattr(CapturedSteps, "_capture", watched)
    train(make(tmp_path, "run"), CPU)
    assert len(taken) > 5
    with NoWaiting(), pytest.raises(RuntimeError, match="wait for _local_scalar_dense"):
        torch.ones(()).item()


def test_a_failed_capture_is_reported_and_training_goes_on(
    tmp_path, rehearsed, monkeypatch, caplog
):
    def fail(self, body):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(CapturedSteps, "_capture", fail)
    with caplog.at_level(logging.INFO, "classification"):
        train(make(tmp_path, "run"), CPU)
    words = [r.getMessage() for r in caplog.records if "captured" in r.getMessage()]
    assert len(words) == 2 and "up to 4 in one" in words[0]
    assert words[1].endswith("operation not permitted when stream is capturing")
    direct_run(make(tmp_path, "direct"))
    assert_equal_runs(tmp_path / "run", tmp_path / "direct")


def test_the_log_says_why_nothing_is_captured(tmp_path, caplog):
    cfg = make(tmp_path, "run", epochs=1, warmup_epochs=0, milestones=[], cuda_graph="auto")
    with caplog.at_level(logging.INFO, "classification"):
        train(cfg, CPU)
    assert "steps are not captured as CUDA graphs: the device is cpu" in caplog.text


def test_what_forbids_capture(tmp_path):
    cfg = make(tmp_path, "run", cuda_graph="auto")
    distiller, data = make_distiller(cfg)
    gpu = replace(CPU, device=torch.device("cuda"))

    def reason(train_config=cfg.train, loader=data.train, process=gpu):
        return captured_steps.why_not(train_config, loader, distiller.distill, process)

    assert reason() is None
    assert reason(replace(cfg.train, cuda_graph=False)) == "train.cuda_graph is false"
    assert "fp16" in reason(replace(cfg.train, amp="fp16"))
    assert "disk" in reason(loader=object())
    assert "processes" in reason(process=replace(gpu, world_size=2))
    ramp = {**TERMS["kd"], "schedule": {"warmup": 0.5}}
    tree = {"teacher": save_teacher(tmp_path / "t.pth"), "terms": [ramp]}
    distiller, _ = make_distiller(make_config(tmp_path / "ramp", tree))
    assert "kd_logits changes" in reason()
