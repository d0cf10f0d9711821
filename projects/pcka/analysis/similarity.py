"""CKA between every layer of a student and of a teacher, over a data set.

Letters: B images, C channels, (H, W) map; N samples, D features; Ls and Lt layers.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pcka.core import CKAMatrix
from pcka.core.moment_sums import all_products
from pcka.core.patches import check_choice

from .layers import LayerReader

POOLS = ("mean", "flatten", "cells")


class LayerSimilarity(NamedTuple):
    """CKA ``(Ls, Lt)`` in float64, with the names of the student's and the teacher's layers."""

    values: Tensor
    rows: tuple[str, ...]
    columns: tuple[str, ...]


def layer_similarity(
    student: LayerReader,
    teacher: LayerReader,
    batches: Iterable[Any],
    *,
    pool: str = "mean",
    debiased: bool = True,
    minibatch: bool = False,
) -> LayerSimilarity:
    """Compare every layer of one network with every layer of another.

    The result is the CKA of all samples at once, for any split into batches.

    Args:
        student, teacher: readers of the layers; see :class:`LayerReader`.
        batches: batches that both readers take.
        pool: what a sample and its features are. ``mean``: an image, by its map averaged over the
            cells, ``(C,)``. ``flatten``: an image, by its whole map, ``(C H W,)``; all features are
            kept until the end, unless ``minibatch``. ``cells``: a cell of an image, ``(C,)``. Of
            two maps the finer is then averaged to the cells of the coarser, and both are cut to
            the extent that both cover, because padding lies on the right and below. The first two
            take vectors ``(B, D)`` as they are.
        debiased, minibatch: see :class:`pcka.core.CKAMatrix`.

    Raises:
        ValueError: too few samples (debiased: 4), an unknown ``pool``, layers that it cannot take.
    """
    check_choice("pool", pool, POOLS)
    options = {"debiased": debiased, "minibatch": minibatch}
    if pool == "cells":
        values = _by_cells(student, teacher, batches, options)
    elif pool == "flatten" and not minibatch:
        values = _of_all(student, teacher, batches, debiased)
    else:
        meter = CKAMatrix(**options)
        kept: list[list[list[Tensor]]] = []
        for batch in batches:
            kept.append([_per_image(side(batch), pool) for side in (student, teacher)])
            if minibatch or not _samples_are_smaller(kept):
                for rows in kept:
                    meter.update(*rows)
                kept = []
        if kept and not meter.samples:
            values = _of_kept(kept, debiased)
        else:
            for rows in kept:
                meter.update(*rows)
            values = meter.compute()
    return LayerSimilarity(values.cpu(), student.names, teacher.names)


def _of_all(student, teacher, batches, debiased: bool) -> Tensor:
    """Compare layers with too many features for moments; keeps ``N D`` numbers per layer."""
    kept = [
        [_per_image(side(batch), "flatten") for side in (student, teacher)] for batch in batches
    ]
    return _of_kept(kept, debiased)


def _of_kept(kept: list[list[list[Tensor]]], debiased: bool) -> Tensor:
    """Return the CKA of layers from their rows in every batch, ``[batch][side][layer]``."""
    sides = [
        [torch.cat(parts) for parts in zip(*rows, strict=True)] for rows in zip(*kept, strict=True)
    ]
    least = 4 if debiased else 2
    if not kept or len(sides[0][0]) < least:
        raise ValueError(f"CKA needs {least} images or more")
    return all_products(*sides, debiased=debiased).cka()


def _samples_are_smaller(kept: list[list[list[Tensor]]]) -> bool:
    """Return whether all samples so far take less memory than the moments of all pairs."""
    widths = [[layer.shape[1] for layer in side] for side in kept[0]]
    samples = sum(len(batch[0][0]) for batch in kept)
    rows, columns = map(sum, widths)
    moments = rows * columns + sum(w * w for side in widths for w in side)
    grams = sum(map(len, widths)) * samples**2
    return samples * (rows + columns) + grams < moments


def _per_image(features: Mapping[str, Tensor], pool: str) -> list[Tensor]:
    """Return one row per image, ``(B, ...)`` -> ``(B, D)``, of each layer."""
    rows = []
    for name, value in features.items():
        if pool == "mean" and value.dim() == 4:
            value = value.mean((2, 3))
        elif pool == "mean" and value.dim() != 2:
            raise ValueError(
                f"layer {name!r} gives {tuple(value.shape)}: pool='mean' takes maps (B, C, H, W) "
                "and vectors (B, D); take pool='flatten'"
            )
        rows.append(value.flatten(1))
    return rows


def _by_cells(student, teacher, batches, options: dict) -> Tensor:
    """Compare cells with one meter per stride: that of the coarser map of a pair."""
    strides = []
    for side in (student, teacher):
        if side.strides is None:
            raise ValueError("pool='cells' needs strides: LayerReader(..., strides=...)")
        strides.append(list(side.strides.values()))
    # If one network has no map that fine, there is no pair.
    floor = max(min(side) for side in strides)
    meters = {g: CKAMatrix(**options) for g in sorted({*strides[0], *strides[1]}) if g >= floor}
    for batch in batches:
        maps = student(batch), teacher(batch)
        for grid, meter in meters.items():
            pooled = [
                _pool_to(grid, features, side.strides)
                for features, side in zip(maps, (student, teacher), strict=True)
            ]
            extent = [min(m.shape[axis] for side in pooled for m in side) for axis in (2, 3)]
            meter.update(
                *(
                    [
                        m[..., : extent[0], : extent[1]].permute(0, 2, 3, 1).flatten(0, 2)
                        for m in side
                    ]
                    for side in pooled
                )
            )
    values = torch.empty(len(strides[0]), len(strides[1]), dtype=torch.float64)
    for grid, meter in meters.items():
        found = iter(meter.compute().flatten().tolist())
        for i, s in enumerate(strides[0]):
            for j, t in enumerate(strides[1]):
                if max(s, t) <= grid:
                    value = next(found)
                    if max(s, t) == grid:
                        values[i, j] = value
    return values


def _pool_to(grid: int, maps: Mapping[str, Tensor], strides: Mapping[str, int]) -> list[Tensor]:
    """Return the maps of stride ``grid`` or finer, ``(B, C, H, W)``, averaged to that stride."""
    pooled = []
    for name, value in maps.items():
        factor, rest = divmod(grid, strides[name])
        if rest:
            if strides[name] < grid:
                raise ValueError(
                    f"layer {name!r} of stride {strides[name]} has no whole cells of stride {grid}"
                )
            continue
        pooled.append(F.avg_pool2d(value, factor, ceil_mode=True))
    return pooled
