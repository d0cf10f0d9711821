"""Two gloo processes: they equal one process with the same global batch, and one of them writes."""

import os
import socket
from pathlib import Path

import pytest
import torch
from classifier_runs import BASE, CPU, TERMS, add_tiny_models, make_config, save_teacher
from processes import run_ranks
from torch.utils import tensorboard

from pcka import files
from pcka.classification import engine as engine_module
from pcka.classification.data import build_data
from pcka.classification.evaluate import Accuracy, evaluate
from pcka.classification.models import create_model
from pcka.classification.processes import Process, join_processes
from pcka.classification.train import train
from pcka.errors import ConfigError

WORLD = 2
GATHERED = [
    {**TERMS[name], "loss_args": {**TERMS[name].get("loss_args", {}), "gather": True}}
    for name in ("fcka", "intra", "inter")
]

# Its adapter gets no gradient in the second half.
FADING = {**TERMS["hint"], "schedule": {"kind": "linear", "off_at": 0.5}}


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    add_tiny_models(monkeypatch)


def on_two_processes(job):
    """Run ``job(process)`` on each, as torchrun starts them; return the results by rank."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]

    dtype = torch.get_default_dtype()

    def work(rank):
        torch.set_default_dtype(dtype)
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(WORLD),
        )
        add_tiny_models(pytest.MonkeyPatch())
        with join_processes("cpu") as process:
            return job(process)

    return run_ranks(work, WORLD)


def only_reads(*_):
    raise AssertionError("the second process writes")


def result_of(cfg, process):
    """Return history and weights of a run as plain lists; the second process may write nothing."""
    if not process.is_main:
        files.os.replace = tensorboard.SummaryWriter = only_reads
    engines = []
    finish = engine_module.Engine._finish
    engine_module.Engine._finish = lambda self: (engines.append(self), finish(self))[1]
    try:
        train(cfg, process)
    finally:
        engine_module.Engine._finish = finish
    [engine] = engines
    history = [{k: v for k, v in row.items() if k != "images_per_second"} for row in engine.history]
    return history, {k: v.tolist() for k, v in engine.distiller.state_dict().items()}


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "terms",
    [
        [TERMS["kd"], FADING],
        GATHERED,
        [{**term, "weight": {"ratio": 0.5}} for term in (*GATHERED, TERMS["hint"])],
    ],
    ids=["kd", "cka", "ratio"],
)
def test_losses_and_weights_are_those_of_one_process(tmp_path, double, terms):
    """Every gradient of twelve steps in float64 has to be that of the whole batch."""
    tree = {
        "student": {"name": "tiny_plain"},  # BatchNorm's statistics are each process's own
        "teacher": save_teacher(tmp_path / "t.pth"),
        "terms": terms,
        "data": {"name": "digits"},  # 1,438 images: six batches, the last one of 238
        "train": {"batch_size": 240, "clip_grad_norm": 0.5, "lr": 0.1},
    }
    one = result_of(make_config(tmp_path / "one", tree), CPU)
    cfg = make_config(tmp_path / "two", tree)
    two, second = on_two_processes(lambda process: result_of(cfg, process))
    assert two == second
    for row, wanted in zip(two[0], one[0], strict=True):
        assert row == pytest.approx(wanted, rel=1e-11)
    for name, value in one[1].items():
        torch.testing.assert_close(
            torch.tensor(two[1][name]), torch.tensor(value), rtol=1e-9, atol=1e-11, msg=name
        )


@pytest.mark.slow
def test_measured_gradients_change_nothing_in_two_processes(tmp_path):
    tree = {"teacher": save_teacher(tmp_path / "t.pth"), "terms": [*GATHERED, TERMS["kd"]]}
    results = []
    for every in (0, 3):
        cfg = make_config(tmp_path / f"every{every}", tree, "train.gradient_every", str(every))
        both = on_two_processes(lambda process, cfg=cfg: result_of(cfg, process))
        assert both[0] == both[1]
        results.append(both[0])
    (_, weights), (history, same) = results
    assert weights == same
    assert all(row[f"gradient/{key}"] > 0 for row in history for key in ("fcka_last", "kd_logits"))


@pytest.mark.slow
def test_what_is_reported_is_what_is_saved(tmp_path):
    """All processes evaluate with rank 0's statistics of BatchNorm, which are the saved ones."""
    tree = {
        "train": {"epochs": 2, "lr": 0.2, "ema_decay": 0.5},
        "student": {"name": "tiny_dropout"},
    }
    cfg = make_config(tmp_path / "run", tree)
    (history, state), (_, second) = on_two_processes(lambda process: result_of(cfg, process))
    assert state == second
    for file, prefix in (("student.pth", ""), ("student_ema.pth", "ema_")):
        model = create_model("tiny_dropout", 10)
        model.load_state_dict(torch.load(tmp_path / "run" / file, weights_only=True)["model"])
        data = build_data(cfg.data, batch_size=32, seed=1, device="cpu")
        accuracy = evaluate(model, data.val, CPU)
        last = history[-1]
        assert (accuracy.top1, accuracy.top5) == (last[f"{prefix}top1"], last[f"{prefix}top5"])


@pytest.mark.slow
def test_every_image_is_evaluated_once(tmp_path):
    cfg = make_config(tmp_path / "run", {"data": BASE["data"]})

    def measure(process):
        torch.manual_seed(0)
        model = create_model("tiny_plain", 10)
        data = build_data(
            cfg.data,
            batch_size=100,
            seed=1,
            device="cpu",
            rank=process.rank,
            world_size=process.world_size,
        )
        return evaluate(model, data.val, process), len(data.val.images)

    (first, a), (second, b) = on_two_processes(measure)
    assert (a, b) == (647, 646)
    assert first == second == measure(CPU)[0] and first.samples == 1293


@pytest.mark.slow
def test_early_features_alone_leave_layers_unused(tmp_path):
    tree = {
        "teacher": save_teacher(tmp_path / "t.pth"),
        "terms": [TERMS["hint"]],
        "ce_weight": 0,
        "student": {"name": "tiny_plain"},
    }
    cfg = make_config(tmp_path / "run", tree)
    on_two_processes(lambda process: result_of(cfg, process))


@pytest.mark.slow
def test_a_share_of_one_image_is_refused(tmp_path):
    """Two batches hold 142 and 3 of 145 images, and each process takes 1 of the 3."""
    tree = {"teacher": save_teacher(tmp_path / "t.pth"), "terms": [TERMS["fcka"]]}
    cfg = make_config(tmp_path / "run", tree, "train.batch_size", "142")

    def words(process):
        with pytest.raises(ConfigError) as error:
            train(cfg, process)
        return [str(error.value)]

    [[first], [second]] = on_two_processes(words)
    assert first == second
    assert "batch_size 142 leaves the last batch of an epoch of 145 images with 1 for each" in first
    assert not list(Path(cfg.output_dir).iterdir())


def gpus(monkeypatch, count, **environment):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)


@pytest.mark.parametrize(
    ("device", "count", "expected"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cuda", 2, "cuda:0"), ("cuda:1", 2, "cuda:1")],
)
def test_device_of_one_process(monkeypatch, device, count, expected):
    gpus(monkeypatch, count)
    with join_processes(device) as process:
        assert process == Process(torch.device(expected)) and process.is_main


@pytest.mark.parametrize(
    ("device", "count", "environment", "words"),
    [
        ("cuda", 0, {}, "torch sees no GPU here; set device cpu"),
        ("cuda:2", 2, {}, "no GPU 2 .* which has 2"),
        ("auto", 2, {"LOCAL_RANK": "2", "WORLD_SIZE": "4"}, "no GPU 2 for process 2.*one process"),
        ("cuda:0", 2, {"LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "cannot serve 2 processes"),
    ],
)
def test_devices_that_are_not_there(monkeypatch, device, count, environment, words):
    gpus(monkeypatch, count, **environment)
    with pytest.raises(ConfigError, match=words), join_processes(device):
        pass


def test_accuracy_by_hand():
    class Logits(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :7]

    class Loader:
        def epoch(self, index):
            ranks = torch.tensor([[9.0, 5, 4, 3, 2, 1, 0]]).repeat(3, 1)
            yield ranks, torch.tensor([0, 4, 5])
            yield ranks[:1], torch.tensor([1])

    assert evaluate(Logits(), Loader(), CPU) == Accuracy(25.0, 75.0, 4)
    assert str(Accuracy(25.0, 75.0, 4)) == "top-1 25.00, top-5 75.00 on 4 images"
