"""Tile sizes tried one by one on this card; the winners belong into core/kernels/tiles.py."""

import dataclasses
import time
from typing import Any

import torch

from pcka.core import patch_cka
from pcka.core.kernels import level, tiles

from .clocks import describe, device_of, in_graph, milliseconds
from .maps import pairs

CHOICES: dict[str, tuple[int, ...]] = {
    "cells": (512, 1024, 2048, 4096),
    "cell_warps": (2, 4, 8),
    "gram": (64, 128),
    "gram_depth": (32, 64),
    "gram_stages": (2, 3, 4),
    "gram_warps": (4, 8),
    "pull_width": (64, 128, 256),
    "pull_depth": (32, 64),
    "pull_stages": (2, 3, 4),
    "pull_warps": (4, 8),
    "adjoint_rows": (2, 4, 8, 16),
    "adjoint_columns": (64, 128, 256),
    "strip": (4, 8, 16),
}


def measure(quick: bool, toy: bool) -> dict[str, Any]:
    """Return the best tile sizes by the number of parts, after one round over all choices."""
    device = device_of(toy)
    end = time.perf_counter() + (1 if toy else 100)
    result: dict[str, Any] = describe(device)
    rows: list[dict[str, Any]] = result.setdefault("tried, ms in a graph", [])
    for parts, dtype in ((2, torch.float32), (1, torch.bfloat16)):
        maps = pairs(device, toy, 1 if toy else 2, dtype)

        def call(maps=maps):
            for student, teacher in maps.values():
                student.grad = None
                for grouping in ("channel", "batch"):
                    value = patch_cka(
                        student, teacher, patch_size=4 if toy else 16, grouping=grouping
                    )
                    value.backward()

        best = tiles.CHOSEN[parts]
        fastest = _time(call)
        rows.append({"parts": parts, "change": "none", "ms": fastest})
        for name, values in CHOICES.items():
            for value in values:
                if value == getattr(best, name) or time.perf_counter() > end:
                    continue
                tried = tiles.CHOSEN[parts] = dataclasses.replace(best, **{name: value})
                try:
                    found = _time(call)
                except Exception as error:  # too much shared memory, for one
                    rows.append(
                        {"parts": parts, "change": f"{name}={value}", "ms": str(error)[:60]}
                    )
                    tiles.CHOSEN[parts] = best
                    continue
                rows.append({"parts": parts, "change": f"{name}={value}", "ms": found})
                if found < 0.995 * fastest:
                    best, fastest = tried, found
                tiles.CHOSEN[parts] = best
        end += 0 if toy else 100
        result[f"best with {parts} part(s)"] = f"{best}: {fastest:.3f} ms"
    for megabytes in () if toy else (64, 96, 128, 224, 448):
        level.WORKSPACE_BYTES = megabytes << 20
        rows.append({"parts": 1, "change": f"workspace {megabytes} MB", "ms": _time(call)})
    return result


def _time(call) -> float:
    found = in_graph(call, 8)
    return found if isinstance(found, float) else milliseconds(call, 1, 0)
