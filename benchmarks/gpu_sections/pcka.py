"""PCKA over p2 to p5 of an 800x1344 image, value and gradient, beside ten plain lines."""

from typing import Any

import torch

from pcka.core import patch_cka
from pcka.core.kernels import level

from .clocks import describe, device_of, in_graph, kernels, milliseconds, peak_megabytes, pipelined
from .maps import pairs, plain

# As published, with the CKA over the features of a patch; and as recommended.
FORMS: dict[str, dict[str, Any]] = {
    "channel": {},
    "batch": {"grouping": "batch"},
    "published": {"center": False, "inter": True},
}


def measure(quick: bool, toy: bool) -> dict[str, Any]:
    """Return times in milliseconds, launches and memory of ours and of plain autograd."""
    device = device_of(toy)
    rounds = 1 if toy else 10 if quick else 30
    patch = 4 if toy else 16
    result: dict[str, Any] = {**describe(device), **_card(device, toy)}
    rows: list[dict[str, Any]] = result.setdefault("loss and gradient, ms", [])
    shares: list[dict[str, Any]] = result.setdefault("busy time by kernel, ms", [])
    for images in (1,) if toy else (2, 8):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            if quick and (dtype == torch.float16 or (images == 8 and dtype == torch.float32)):
                continue
            maps = pairs(device, toy, images, dtype)
            for form, options in FORMS.items():
                if quick and form == "published" and images == 8:
                    continue
                common = {"B": images, "maps": str(dtype)[6:], "PCKA": form}

                def ours(maps=maps, options=options):
                    for student, teacher in maps.values():
                        student.grad = None
                        patch_cka(student, teacher, patch_size=patch, **options).backward()

                def by_autograd(maps=maps, options=options):
                    for student, teacher in maps.values():
                        student.grad = None
                        plain(student, teacher, patch, **options).backward()

                for name, call in (("kernels", ours), ("plain autograd", by_autograd)):
                    found = kernels(call)
                    rows.append(
                        {
                            **common,
                            "form": name,
                            "alone": milliseconds(call, rounds),
                            "pipelined": pipelined(call, rounds),
                            "graph": in_graph(call, rounds),
                            "launches": found[0] if found else "",
                            "busy": found[1] if found else "",
                            "peak MB": peak_megabytes(call),
                        }
                    )
                    if found and name == "kernels":
                        shares.append({**common, **{k.strip("_"): v for k, v in found[2].items()}})
                    print(rows[-1], flush=True)
            del maps
    if not toy:
        result["levels, graph, ms"] = _levels(device, patch, rounds)
    return result


def _levels(device: torch.device, patch: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for grouping in ("channel", "batch"):
            row: dict[str, Any] = {"maps": str(dtype)[6:], "grouping": grouping}
            for name, (student, teacher) in pairs(device, False, 2, dtype).items():

                def call(student=student, teacher=teacher, grouping=grouping):
                    student.grad = None
                    patch_cka(student, teacher, patch_size=patch, grouping=grouping).backward()

                row[name] = in_graph(call, rounds)
            rows.append(row)
    return rows


def _card(device: torch.device, toy: bool) -> dict[str, Any]:
    """Return what the card does at its best: products in each type, and bytes copied."""
    size = 64 if toy else 8192
    found: dict[str, Any] = {"workspace MB": level.WORKSPACE_BYTES / 1e6}
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("TF32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        a = torch.randn(size, size, device=device).to(dtype)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        rate = 2 * size**3 / milliseconds(lambda a=a: a @ a, 3) / 1e9
        found[f"products in {name}, TFLOP/s"] = round(rate, 1)
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.empty(1 << (10 if toy else 29), device=device)
    target = torch.empty_like(source)
    rate = 8 * source.numel() / milliseconds(lambda: target.copy_(source), 3) / 1e9
    found["copy, TB/s"] = round(rate, 2)
    return found
