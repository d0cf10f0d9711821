"""PCKA of two maps and CKA of two matrices by kernels: their memory and the order of launches.

Shapes: B images, C channels, (H, W) map; G groups, N patches, D features of a patch.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..closed_form import Needs
from ..collectives import all_sum_, world_size
from ..patches import PatchOptions, grid_shape
from . import tiles
from .launch import current_stream
from .plan import Plan, Side
from .steps import Steps

# The bytes of patches and Gram matrices that are held at a time: larger levels go in chunks.
WORKSPACE_BYTES = 224 << 20

# The properties of a tensor that its plan depends on; its contents are not among them.
_Form = tuple[torch.dtype, tuple[int, ...], tuple[int, ...], bool]


def patch_cka(
    student: Tensor, teacher: Tensor, needs: Needs, options: PatchOptions
) -> tuple[Tensor, float, Any, Any]:
    """Compute PCKA and its unfinished gradients: the ``compute`` of :func:`.with_gradients`.

    Args:
        student, teacher: ``(B, C, H, W)``, ``(B, C', H, W)``, as :func:`.covers_maps` takes them.
        needs: whether the gradient of the student and of the teacher is wanted.
        options: see :class:`.PatchOptions`.

    Returns:
        The mean CKA over the groups, ``()``, float32; a factor; and for each map a
        :class:`Pulled`, or None where its gradient is not needed.
    """
    steps = _steps_of_maps(
        _form(student), _form(teacher), options, needs, _settings(student, teacher)
    )
    values, slopes = _run(steps, (student, teacher))
    value, factor = values.mean(), 1 / len(values)
    if options.gather and steps.plan.batch:
        value = all_sum_(value) / world_size()
    elif options.gather:
        factor *= world_size()
    return value, factor, slopes[0], slopes[1]


def cka(x: Tensor, y: Tensor, needs: Needs, center: bool) -> tuple[Tensor, float, Any, Any]:
    """Compute the CKA ``(...)`` of ``(..., N, Dx)``, ``(..., N, Dy)``; see :func:`patch_cka`."""
    maps = [m.unsqueeze(0).flatten(0, -3).unsqueeze(0) for m in (x, y)]
    steps = _steps_of_matrices(_form(maps[0]), _form(maps[1]), center, needs, _settings(x, y))
    values, slopes = _run(steps, maps)
    for slope, m in zip(slopes, (x, y), strict=True):
        if slope is not None:
            slope.shape = m.shape
    return values.view(x.shape[:-2]), 1.0, slopes[0], slopes[1]


class Pulled:
    """The gradient of a map, on its resized cells, that waits for the incoming gradient.

    Attributes:
        cells: ``(B, C, U P, V Q)``, float32, or float16 for a half map, before the multiplication
            by ``factors``.
        factors: ``(G,)``, one factor for all entries of a group.
        shape: the shape of the gradient.
    """

    def __init__(self, steps: Steps, side: int, x: Tensor, cells: Tensor, factors: Tensor):
        self.steps, self.side, self.map = steps, side, x
        self.cells, self.factors, self.shape = cells, factors, x.shape

    def gradient(self, outer: Tensor, factor: float) -> Tensor:
        """Return the gradient of the map, in its type and memory format.

        Args:
            outer: the incoming gradient, ``()`` or one per group ``(...)``, float32.
            factor: a further factor of all entries.
        """
        out, outer = torch.empty_like(self.map), outer.contiguous()
        side = "xy"[self.side]
        tensors = {
            f"{side}_cells": self.cells,
            f"{side}_factors": self.factors,
            "outer": outer,
            "out": out,
        }
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        with torch.cuda.device_of(out):
            launch = self.steps.backward(self.side, out.stride(), outer.dim() > 0, factor)
            launch(addresses, current_stream(out.device), tensors.__getitem__)
        return out.view(self.shape)


def _run(steps: Steps, maps: list[Tensor] | tuple[Tensor, Tensor]) -> tuple[Tensor, list[Any]]:
    """Return the CKA of each group, ``(G,)``, and the gradients before backward."""
    plan, device = steps.plan, maps[0].device
    groups, places = plan.groups, plan.places
    workspace = torch.empty(places["end"].start, dtype=torch.uint8, device=device)
    if plan.ragged:
        workspace.zero_()
    results = torch.empty(3, groups, device=device)
    tensors = {"x": maps[0], "y": maps[1]}
    tensors["values"], tensors["x_factors"], tensors["y_factors"] = results.unbind()
    slopes: list[Pulled | None] = [None, None]
    for i, (name, need) in enumerate(zip("xy", plan.needs, strict=True)):
        if need:
            b, c = maps[i].shape[:2]
            cells = tensors[f"{name}_cells"] = torch.empty(
                (b, c, plan.down * plan.patch_height, plan.sides[i].resized),
                dtype=plan.cell_types[i],
                device=device,
            )
            slopes[i] = Pulled(steps, i, maps[i], cells, tensors[f"{name}_factors"])
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    base = workspace.data_ptr()
    for name, place in places.items():
        addresses[name] = base + place.start
    find = _finder(tensors, workspace, plan)
    with torch.cuda.device_of(workspace):
        stream = current_stream(device)
        for launch in steps.forward:
            launch(addresses, stream, find)
    return tensors["values"], slopes


def _finder(tensors: dict[str, Tensor], workspace: Tensor, plan: Plan) -> Callable[[str], Tensor]:
    """Return a function that finds a tensor by name, in ``tensors`` or in the workspace."""

    def find(name: str) -> Tensor:
        if name in tensors:
            return tensors[name]
        place = plan.places[name]
        numbers = workspace[place.start :].view(torch.uint8)
        numbers = numbers[: numbers.numel() // 8 * 8].view(place.dtype)
        return numbers[: torch.Size(place.shape).numel()]

    return find


def _form(x: Tensor) -> _Form:
    return x.dtype, tuple(x.shape), x.stride(), x.data_ptr() % 16 == 0


def _settings(x: Tensor, y: Tensor) -> tuple[int, tiles.Tiles, int, torch.device]:
    """Return the settings that a plan depends on besides its tensors and the options."""
    # One float16 part holds a half map, and a float32 map where TF32 is allowed.
    exact = torch.get_float32_matmul_precision() == "highest"
    parts = 2 if exact and torch.float32 in (x.dtype, y.dtype) else 1
    return parts, tiles.CHOSEN[parts], WORKSPACE_BYTES, x.device


@lru_cache(maxsize=1024)
def _steps_of_maps(
    student: _Form,
    teacher: _Form,
    options: PatchOptions,
    needs: Needs,
    settings: tuple[int, tiles.Tiles, int, torch.device],
) -> Steps:
    height, width = student[1][2:]
    p, q = options.patch_shape
    u, v = grid_shape(height, width, options.patch_shape)
    plan = Plan(
        (Side(*student, v * q, q), Side(*teacher, v * q, q)),
        p,
        u,
        v,
        options.grouping == "batch",
        options.center,
        options.share,
        options.resize == "pad",
        needs,
        *settings[:3],
    )
    return Steps(plan)


@lru_cache(maxsize=1024)
def _steps_of_matrices(
    x: _Form,
    y: _Form,
    center: bool,
    needs: Needs,
    settings: tuple[int, tiles.Tiles, int, torch.device],
) -> Steps:
    sides = Side(*x, x[1][3], x[1][3]), Side(*y, y[1][3], y[1][3])
    plan = Plan(sides, 1, x[1][2], 1, False, center, 0.0, False, needs, *settings[:3])
    return Steps(plan)
