"""Values and gradients against float64, and what a GPU must not do: differ, wait, recompile."""

import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pcka.core import PatchOptions, cka, feature_cka, logit_cka, patch_cka, reference

from .clocks import captured, describe, device_of


def measure(quick: bool, toy: bool) -> dict[str, Any]:
    """Return every check with its error and the limit, and how many failed."""
    device = device_of(toy)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
    rows: list[dict[str, Any]] = []
    for check in (_habits, _sizes, _matrices, _extremes, _without_kernels, _losses):
        try:
            for name, found, limit in check(device, toy):
                rows.append({"check": name, "found": found, "limit": limit, "ok": found <= limit})
                print(rows[-1], flush=True)
        except Exception as error:  # the other checks are made all the same
            traceback.print_exc()
            reason = f"{check.__name__}: {type(error).__name__}: {error}"[:300]
            rows.append({"check": reason, "found": "an error", "limit": 0.0, "ok": False})
    failed = [row["check"] for row in rows if not row["ok"]]
    return {**describe(device), "failed": f"{len(failed)} of {len(rows)}", "checks": rows}


Found = Iterator[tuple[str, float, float]]


def _draw(device: torch.device, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) + 0.3).to(device)


def _pair(device, shape, width=None, dtype=torch.float32, layout=torch.contiguous_format):
    teacher = _draw(device, (shape[0], width or shape[1], *shape[2:]))
    student = _draw(device, shape, 1)
    if width is None:
        student = student + teacher
    return [x.to(dtype).to(memory_format=layout).requires_grad_() for x in (student, teacher)]


def _errors(
    student: Tensor, teacher: Tensor, options: dict[str, Any], scale: float = 1.0
) -> tuple[float, float]:
    """Return the error of the value, and the largest relative one of the gradients."""
    value = patch_cka(student, teacher, **options)
    outer = _loss_scale(student)
    gradients = torch.autograd.grad(value * outer, [student, teacher])
    chosen = PatchOptions(**options)
    x, y = ((t.detach().double().cpu() / scale).requires_grad_() for t in (student, teacher))
    exact = reference.patch_cka(
        x,
        y,
        patch=chosen.patch_shape,
        grouping=chosen.grouping,
        center=chosen.center,
        debiased=chosen.debiased,
        inter=chosen.share,
        resize=chosen.resize,
    )
    wanted = torch.autograd.grad(exact, [x, y])
    errors = [
        ((g.double().cpu() * (scale / outer) - w).norm() / w.norm()).item()
        for g, w in zip(gradients, wanted, strict=True)
    ]
    return abs(value.item() - exact.item()), max(errors)


def _loss_scale(x: Tensor) -> float:
    """Return a loss scale: without one, most gradients in float16 are too small for the type."""
    return 2.0**12 if x.dtype == torch.float16 else 1.0


_LIMITS = {
    torch.float32: (1e-6, 1e-5),
    torch.bfloat16: (2e-5, 6e-3),
    torch.float16: (2e-5, 1e-3),
}


def _cases(toy: bool) -> Iterator[tuple[tuple[int, ...], dict[str, Any], torch.dtype]]:
    """Yield maps, options and types: each of them once, and the main form in all types."""
    shape, patch = ((2, 3, 9, 14), 4) if toy else ((2, 8, 50, 84), 16)
    for grouping in ("channel", "batch"):
        for center, resize in ((True, "bilinear"), (False, "bilinear"), (True, "pad")):
            options = {"grouping": grouping, "center": center, "resize": resize}
            yield shape, {"patch_size": patch, **options}, torch.float32
        for dtype in (torch.bfloat16, torch.float16):
            yield shape, {"patch_size": patch, "grouping": grouping}, dtype
    yield (1, 5, 33, 47), {"patch_size": 4 if toy else 8}, torch.float32
    yield (3, 2, 12, 16), {"patch_size": [2, 4]}, torch.float32
    for share in (0.5, 1.0):
        options = {"patch_size": patch, "center": False, "inter": share}
        yield shape, options, torch.float32
    yield shape, {"patch_size": patch, "center": False, "inter": True}, torch.bfloat16


def _losses(device: torch.device, toy: bool) -> Found:
    for shape, options, dtype in _cases(toy):
        wider = shape[1] + 3 if options.get("grouping") == "batch" else None
        errors = _errors(*_pair(device, shape, wider, dtype), options)
        name = f"{shape} {str(dtype)[6:]} {options}"
        for kind, error, limit in zip(("value", "gradient"), errors, _LIMITS[dtype], strict=True):
            yield f"{kind}: {name}", error, limit
    shape, options, _ = next(_cases(toy))
    pair = _pair(device, shape, layout=torch.channels_last)
    yield "gradient: channels-last", _errors(*pair, options)[1], 1e-5
    pair = [x.detach()[..., :-1].requires_grad_() for x in _pair(device, shape)]
    yield "gradient: a view", _errors(*pair, options)[1], 1e-5


def _extremes(device: torch.device, toy: bool) -> Found:
    shape, patch = ((2, 2, 9, 14), 4) if toy else ((2, 4, 50, 84), 16)
    for scale in (1e-18, 1e15):
        pair = [(x.detach() * scale).requires_grad_() for x in _pair(device, shape)]
        error = _errors(*pair, {"patch_size": patch}, scale)
        yield f"value at scale {scale:g}", error[0], 1e-6
        yield f"gradient at scale {scale:g}", error[1], 1e-5
    student, teacher = _pair(device, shape)
    with torch.no_grad():
        student[:, 0] = 7.0  # a dead group
    value = patch_cka(student, teacher, patch_size=patch)
    gradient = torch.autograd.grad(value, student)[0]
    yield "a dead group's gradient", gradient[:, 0].abs().max().item(), 0.0
    yield "the others' value", float(not 0.1 < value.item() < 1), 0.0
    with torch.no_grad():
        teacher[:, 1, 0, 0] = torch.nan
    yield "NaN stays", float(not patch_cka(student, teacher, patch_size=patch).isnan()), 0.0
    same = patch_cka(teacher.nan_to_num(), teacher.nan_to_num(), patch_size=patch)
    yield "equal maps", abs(1 - same.item()), 1e-6


def _matrices(device: torch.device, toy: bool) -> Found:
    sizes = ((8, 40),) if toy else ((64, 4096), (257, 1000), (1024, 100))
    for rows, columns in sizes:
        for dtype in (torch.float32,) if rows > 64 else _LIMITS:
            value_limit, limit = _LIMITS[dtype]
            x, y = (_draw(device, (rows, columns), i).to(dtype).requires_grad_() for i in (0, 1))
            value = feature_cka(x, y)
            outer = _loss_scale(x)
            gradient = torch.autograd.grad(value * outer, x)[0].double() / outer
            a = x.detach().double().cpu().requires_grad_()
            exact = reference.cka(a, y.detach().double().cpu())
            wanted = torch.autograd.grad(exact, a)[0]
            name = f"{rows}x{columns} {str(dtype)[6:]}"
            yield f"feature_cka value: {name}", abs(value.item() - exact.item()), value_limit
            error = ((gradient.double().cpu() - wanted).norm() / wanted.norm()).item()
            yield f"feature_cka gradient: {name}", error, limit
    x, y = (_draw(device, (3, 5, 7, 10), i).requires_grad_() for i in (2, 3))
    outer = _draw(device, (3, 5), 4)
    gradient = torch.autograd.grad(cka(x, y), x, outer)[0]
    a = x.detach().double().cpu().requires_grad_()
    values = [
        reference.cka(p, q)
        for p, q in zip(a.flatten(0, 1), y.detach().double().cpu().flatten(0, 1), strict=True)
    ]
    total = (torch.stack(values) * outer.double().cpu().flatten()).sum()
    wanted = torch.autograd.grad(total, a)[0]
    error = ((gradient.double().cpu() - wanted).norm() / wanted.norm()).item()
    yield "cka gradient of groups", error, 1e-5
    p, q = (_draw(device, (16, 10), i).requires_grad_() for i in (5, 6))
    value = logit_cka(p, q, relation="inter")
    exact = reference.cka(p.detach().double().cpu().T, q.detach().double().cpu().T)
    yield "logit_cka inter value", abs(value.item() - exact.item()), 1e-6


def _without_kernels(device: torch.device, toy: bool) -> Found:
    shape, patch = ((2, 3, 9, 14), 4) if toy else ((2, 4, 50, 84), 16)
    for options in (
        {"inter": 0.5},
        {"debiased": True},
        {"grouping": "position"},
    ):
        value, gradient = _errors(*_pair(device, shape), {"patch_size": patch, **options})
        yield f"value: {options}", value, 1e-5
        yield f"gradient: {options}", gradient, 1e-4


def _habits(device: torch.device, toy: bool) -> Found:
    """Yield determinism, loss scales, and on a GPU: no waiting, and the same bits in a graph."""
    shape, patch = ((2, 2, 9, 14), 4) if toy else ((2, 16, 100, 168), 16)
    for grouping in ("channel", "batch"):
        student, teacher = _pair(device, shape)

        def call(student=student, teacher=teacher, grouping=grouping):
            value = patch_cka(student, teacher, patch_size=patch, grouping=grouping)
            # Detached: a graph that is kept ties its leaves to the stream on which it was made,
            # and a capture on another stream fails.
            return value.detach(), *torch.autograd.grad(value, student)

        first = call()
        again = call()
        differ = any(not torch.equal(a, b) for a, b in zip(first, again, strict=True))
        yield f"a second run differs, {grouping}", float(differ), 0.0
        half = student.detach().half().requires_grad_()
        value = patch_cka(half, teacher.half(), patch_size=patch, grouping=grouping)
        big = torch.autograd.grad(value * 2.0**12, half)[0].float() / 2.0**12
        error = ((big - first[1]).norm() / first[1].norm()).item()
        yield f"float16 gradient under a loss scale, {grouping}", error, 5e-3
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
            try:
                call()
                waits = 0.0
            except RuntimeError:
                waits = 1.0
            torch.cuda.set_sync_debug_mode("default")
            yield f"the host waits, {grouping}", waits, 0.0
            kept: list[Tensor] = []
            replay = captured(lambda call=call, kept=kept: kept.extend(call()))
            assert replay is not None
            replay()
            differ = any(not torch.equal(a, b) for a, b in zip(first, kept[-2:], strict=True))
            yield f"a graph differs, {grouping}", float(differ), 0.0


def _sizes(device: torch.device, toy: bool) -> Found:
    """Yield how many variants are compiled for maps of 24 sizes: a multi-scale training."""
    if device.type != "cuda":
        return
    from pcka.core.kernels import adjoint, cells, gram, pull

    every = (cells.measure, cells.cut, gram.gram, gram.merge, pull.pull, adjoint.adjoint)
    before = [len(kernel.variants) for kernel in every]
    for i in range(24):
        student, teacher = _pair(device, (2, 4, 40 + 3 * i, 64 + 5 * i))
        patch_cka(student, teacher, patch_size=16).backward()
    for kernel, count in zip(every, before, strict=True):
        name = kernel.function.__name__
        yield f"variants of {name} for 24 sizes", float(len(kernel.variants) - count), 8.0
