"""Images per second of classification: steps started one by one, and captured as CUDA graphs."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pcka.classification.building import build_distiller, prepare_teacher
from pcka.classification.config import load_config
from pcka.classification.data import Data
from pcka.classification.data.tensors import ImageSet, TensorEvalLoader, TensorTrainLoader
from pcka.classification.engine import Engine
from pcka.classification.models import create_model
from pcka.classification.processes import Process

from .clocks import describe, device_of, in_graph, kernels

CONFIGS = Path(__file__).parents[2] / "configs" / "classification"
CLASSES, SIZE = 100, 32
RECIPE = 240 * 50_000  # images of the published training on CIFAR-100


def measure(quick: bool, toy: bool) -> dict[str, Any]:
    """Return images per second by networks, method and form, and what a step is made of."""
    device = device_of(toy)
    end = time.perf_counter() + (100 if quick else 400)
    result: dict[str, Any] = describe(device)
    rows: list[dict[str, Any]] = result.setdefault("images per second", [])
    pair = ("resnet20", "resnet8") if toy else ("resnet32x4", "resnet8x4")
    _try(result, "captured and direct steps", lambda: _equal(device, pair, toy))
    _try(result, "a step, started one by one", lambda: _step(device, pair, toy))
    for names, batch, method, options in _cases(pair, quick, toy):
        common = {"networks": " > ".join(names), "B": batch, "method": method or "alone"}
        form = options.pop("form")
        if time.perf_counter() > end:
            rows.append({**common, "form": form, "images/s": "no time left"})
            continue
        try:
            rate, first = _rate(device, names, batch, method, toy, **options)
            found: dict[str, Any] = {"images/s": round(rate, 1), "first epoch, s": round(first, 1)}
            found["minutes for 240 x 50,000"] = round(RECIPE / rate / 60, 1)
        except Exception as error:  # the other forms are measured all the same
            found = {"images/s": f"{type(error).__name__}: {error}"[:150]}
        rows.append({**common, "form": form, **found})
        print(rows[-1], flush=True)
    return result


def _cases(pair, quick, toy):
    """Yield networks, batch size, method and how steps are taken."""
    direct = {"form": "direct", "cuda_graph": False}
    single, several = ({"form": f"graphs of {n}", "steps": n} for n in (1, 4))
    unprepared = {"form": "graphs of 4, teacher as it is", "steps": 4, "prepare": False}
    compiled = {"form": "graphs of 4, compiled", "steps": 4, "compile": True}
    batch = 8 if toy else 64
    for options in (direct,) if toy else (direct, several, unprepared, single):
        yield pair, batch, "rcka", dict(options)
    if toy:
        return
    yield pair, batch, "kd", dict(several)
    yield pair, batch, None, dict(several)
    yield pair, 256, "rcka", dict(several)
    for names in (("wrn_40_2", "wrn_16_2"), ("resnet110", "resnet20")):
        yield names, batch, "rcka", dict(several)
        if not quick:
            yield names, batch, "rcka", dict(direct)
            yield names, batch, "kd", dict(several)
    yield pair, batch, "rcka", dict(compiled)
    yield pair, batch, "kd", dict(compiled)


def _engine(
    device: torch.device,
    names: tuple[str, str],
    batch: int,
    batches: int,
    method: str | None,
    folder: Path,
    amp: str = "none",
    compile: bool = False,
    cuda_graph: bool = True,
    prepare: bool = True,
) -> Engine:
    """Return an engine with random weights and images of the size of CIFAR's."""
    torch.manual_seed(0)
    teacher, student = (create_model(name, CLASSES) for name in names)
    torch.save(teacher.state_dict(), folder / "teacher.pth")
    torch.save(student.state_dict(), folder / "student.pth")
    keys = {
        "output_dir": folder / "run",
        "student.name": names[1],
        "student.weights": folder / "student.pth",
        "teacher.name": names[0],
        "teacher.weights": folder / "teacher.pth",
        "train.batch_size": batch,
        "train.amp": amp,
        "train.compile": str(compile).lower(),
        "train.channels_last": str(amp != "none").lower(),
        "train.cuda_graph": "auto" if cuda_graph else "false",
        "teacher.prepare": str(prepare).lower(),
    }
    files = [CONFIGS / "base" / "cifar100.yaml"]
    files += [CONFIGS / "methods" / f"{method}.yaml"] if method else []
    cfg = load_config(files, [str(token) for pair in keys.items() for token in pair])
    generator = torch.Generator().manual_seed(0)
    shape = batch * batches, 3, SIZE, SIZE
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, shape[:1], generator=generator)
    data = ImageSet(images, labels)
    statistics = {"mean": cfg.data.mean, "std": cfg.data.std, "device": device}
    train = TensorTrainLoader(data, batch_size=batch, padding=4, flip=True, seed=1, **statistics)
    val = TensorEvalLoader(data.subset(slice(0, batch)), batch_size=batch, **statistics)
    data_of_run = Data(train, val, tuple(map(str, range(CLASSES))), SIZE)
    process = Process(device)
    distiller = build_distiller(cfg, data_of_run, process)
    if distiller.teacher is not None:
        prepare_teacher(cfg, distiller.teacher, data_of_run, process, None)
    return Engine(cfg, data_of_run, distiller, process, folder / "run")


def _train(engine: Engine, epochs: int) -> float:
    """Train whole epochs from where the engine is; return the seconds."""
    device, per_epoch = engine.process.device, len(engine.data.train)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(epochs):
        engine._train_epoch(engine.distiller, engine.step // per_epoch, tqdm(disable=True))
        engine.meter.reset()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _rate(device, names, batch, method, toy, steps=1, **options) -> tuple[float, float]:
    """Return images per second after an epoch of warming up, and how long that epoch took."""
    batches, epochs = (3, 1) if toy else (40 if not options.get("cuda_graph", True) else 240, 2)
    with tempfile.TemporaryDirectory() as folder:
        amp = "none" if toy else "bf16"
        engine = _engine(device, names, batch, batches, method, Path(folder), amp, **options)
        if engine.captured is not None:
            engine.captured.steps = steps
        first = _train(engine, 1)
        if engine.captured is not None and not engine.captured.captures:
            raise RuntimeError("the capture failed, see the log")
        return epochs * batches * batch / _train(engine, epochs), first


def _equal(device, names, toy) -> str:
    """Return whether captured steps in float32 give the bits of steps that are called directly.

    cuDNN is held to algorithms that give the same bits every time; otherwise direct steps alone do
    not. In graphs of several steps the teacher sees more images at once, which rounds differently.
    """
    batch, batches = (8, 12) if toy else (64, 40)
    forms = {"direct steps": 0, "direct steps again": 0, "graphs of 1": 1, "graphs of 4": 4}
    weights = []
    kept, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    try:
        for steps in forms.values():
            with tempfile.TemporaryDirectory() as folder:
                engine = _engine(
                    device, names, batch, batches, "rcka", Path(folder), cuda_graph=steps > 0
                )
                if engine.captured is not None:
                    engine.captured.steps = steps
                _train(engine, 1)
                weights.append([value.clone() for value in engine.student.state_dict().values()])
    finally:
        torch.backends.cudnn.deterministic = kept
    found = []
    for name, other in list(zip(forms, weights, strict=True))[1:]:
        pairs = list(zip(other, weights[0], strict=True))
        if all(torch.equal(a, b) for a, b in pairs):
            found.append(f"{name}: the same bits")
            continue
        worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs if b.any())
        found.append(f"{name}: differ by up to {worst:.1e} of the largest weight of a tensor")
    return f"{batches} steps in float32 against direct steps. {'; '.join(found)}"


def _step(device, names, toy) -> str:
    """Return kernels and busy time of a step, and the share of RCKA's terms in a graph."""
    batch = 8 if toy else 64
    with tempfile.TemporaryDirectory() as folder:
        amp = "none" if toy else "bf16"
        engine = _engine(device, names, batch, 2, "rcka", Path(folder), amp, cuda_graph=False)
        engine.distiller.train()
        images, labels = next(iter(engine.data.train.epoch(0)))

        def step():
            engine._step(engine.distiller, images, labels)

        for _ in range(3):
            step()
        found = kernels(step)
        with engine.update.autocast():
            features = engine.distiller._tapped(images)
            teacher = engine.distiller.teacher(images)
        leaves = {name: value.detach().requires_grad_() for name, value in features.items()}

        def terms():
            for leaf in leaves.values():
                leaf.grad = None
            sum(engine.distiller.distill(leaves, teacher, labels).values()).backward()

        terms()
        alone = in_graph(terms)
        counted = kernels(terms)
    if found is None or counted is None or not isinstance(alone, float):
        return "not on a GPU"
    return (
        f"{found[0]} kernels, {found[1]:.2f} ms busy; RCKA's terms: {counted[0]} kernels, "
        f"{alone:.3f} ms as a graph"
    )


def _try(result: dict[str, Any], key: str, call: Callable[[], str]) -> None:
    try:
        result[key] = call()
    except Exception as error:  # the rates are measured all the same
        result[key] = f"{type(error).__name__}: {error}"[:300]
    print(f"{key}: {result[key]}", flush=True)
