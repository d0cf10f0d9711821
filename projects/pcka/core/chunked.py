"""PCKA's value and gradients chunk by chunk, so that only the gradients take a map's memory.

Shapes: B images, C channels, (H, W) map; G groups, N patches, D features of a patch.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .cka import working_dtype
from .closed_form import cka_with_gradients, samples_pay, uncentred_both_ways
from .distributed import all_sum_, world_size
from .parts import Parts, cka_of_parts
from .patches import PatchSize, from_patches, grid_shape, patch_shape, to_patches
from .sides import scale_for

# The part of a map that is worked on at a time, in bytes: it stays in the cache of a CPU, and
# fills a GPU. All else that is alive at once is a small multiple of it.
WORKSPACE = {"cpu": 2 << 20, "cuda": 32 << 20}

Maps = Sequence[Tensor]  # the student's (B, C, H, W) and the teacher's (B, C', H, W)


class Options(NamedTuple):
    """As of :func:`pcka.core.patch_cka`; ``inter`` is the share."""

    patch_size: PatchSize
    grouping: str
    center: bool
    inter: float
    debiased: bool
    resize: str
    gather: bool

    @property
    def cut(self) -> tuple[PatchSize, str, str]:
        """How patches are made."""
        return self.patch_size, self.grouping, self.resize


def patch_cka_with_gradients(
    student: Tensor, teacher: Tensor, needs: tuple[bool, bool], options: Options
):
    """The ``compute`` of :func:`pcka.core.fused.with_gradients`."""
    maps, dtype = (student, teacher), working_dtype(student, teacher)
    gradients = [
        torch.empty(m.shape, dtype=dtype, device=m.device) if need else None
        for m, need in zip(maps, needs, strict=True)
    ]
    # Written in place: small results kept between the chunks would tear holes into the heap.
    values, done = torch.empty(_groups(student, options), dtype=dtype, device=student.device), 0
    for chunk in _chunks(student, options.grouping):
        inputs = [m[chunk] for m in maps]
        outputs = [g if g is None else g[chunk] for g in gradients]
        work = _by_parts if _has_parts(inputs, needs, options) else _at_once
        value = work(inputs, outputs, needs, dtype, options)
        values[done : done + len(value)] = value
        done += len(value)
    factor = 1 / len(values)
    value = values.mean()
    if options.gather and options.grouping == "batch":
        # Each image has a Gram matrix of its own: the groups are spread, not their features.
        value = all_sum_(value) / world_size()
    elif options.gather:
        factor *= world_size()  # for DDP's mean
    return value, factor, *gradients


def _groups(x: Tensor, options: Options) -> int:
    """How many Gram matrices a map ``(B, C, H, W)`` has."""
    if options.grouping == "position":
        return math.prod(patch_shape(options.patch_size))
    return x.shape[0 if options.grouping == "batch" else 1]


def _chunks(x: Tensor, grouping: str) -> Iterator[tuple[slice, ...]]:
    """Indices of parts of a map ``(B, C, H, W)`` that hold whole groups."""
    if grouping == "position":  # every group has a share in every channel of every image
        yield (slice(None),)
        return
    axis = 0 if grouping == "batch" else 1
    workspace = WORKSPACE.get(x.device.type, WORKSPACE["cuda"])
    count = max(1, workspace * x.shape[axis] // (x.numel() * max(x.element_size(), 4)))
    for start in range(0, x.shape[axis], count):
        yield (*[slice(None)] * axis, slice(start, start + count))


def _at_once(maps: Maps, gradients, needs, dtype: torch.dtype, options: Options) -> Tensor:
    """CKA ``(G,)`` of maps that hold whole groups; their gradients are filled."""
    patches = [to_patches(m.to(dtype), *options.cut) for m in maps]
    value, *slopes = _intra_and_inter(*patches, needs, options)
    for gradient, slope in zip(gradients, slopes, strict=True):
        if slope is not None:
            from_patches(slope, gradient, *options.cut)
    return value


def _intra_and_inter(x: Tensor, y: Tensor, needs: tuple[bool, bool], options: Options):
    """CKA of patches ``(G, N, D)`` and its gradients, over the patches and over their features."""
    spread = options.gather and options.grouping != "batch" and world_size() > 1
    both = 0 < options.inter < 1 and not options.center
    if both and samples_pay(*x.shape[-2:], y.shape[-1], needs):
        return uncentred_both_ways(
            x, y, share=options.inter, needs=needs, spread="features" if spread else None
        )
    terms = []  # share, (value, gradient of x, gradient of y)
    arguments = {"center": options.center, "debiased": options.debiased, "needs": needs}
    if options.inter < 1:
        intra = cka_with_gradients(x, y, spread="features" if spread else None, **arguments)
        terms.append((1 - options.inter, intra))
    if options.inter > 0:
        value, *slopes = cka_with_gradients(
            x.mT, y.mT, spread="samples" if spread else None, **arguments
        )
        terms.append((options.inter, (value, *(s if s is None else s.mT for s in slopes))))
    if len(terms) == 1:
        return terms[0][1]
    (a, intra), (b, inter) = terms
    return [u if u is None else a * u + b * v for u, v in zip(intra, inter, strict=True)]


def _has_parts(maps: Maps, needs: tuple[bool, bool], options: Options) -> bool:
    """Whether maps are of one image, one group, that is better taken some channels at a time."""
    if options.grouping != "batch" or options.inter or len(maps[0]) > 1:
        return False
    if all(len(list(_chunks(m, "channel"))) == 1 for m in maps):
        return False
    patches = math.prod(grid_shape(*maps[0].shape[2:], options.patch_size))
    cells = math.prod(patch_shape(options.patch_size))
    return samples_pay(patches, *(m.shape[1] * cells for m in maps), needs)


def _by_parts(maps: Maps, gradients, needs, dtype: torch.dtype, options: Options) -> Tensor:
    """As :func:`_at_once`, some channels at a time."""
    value, *slopes = cka_of_parts(
        *(_parts(m, dtype, options) for m in maps),
        center=options.center,
        debiased=options.debiased,
        needs=needs,
    )
    for x, gradient, found in zip(maps, gradients, slopes, strict=True):
        if found is not None:
            for chunk, slope in zip(_chunks(x, "channel"), found, strict=True):
                from_patches(slope, gradient[chunk], *options.cut)
    return value


def _parts(x: Tensor, dtype: torch.dtype, options: Options) -> Parts:
    """Of an image ``(1, C, H, W)``; resizing does not enlarge it."""

    def patches(chunk: tuple[slice, ...]) -> Tensor:
        return to_patches(x[chunk].to(dtype), *options.cut)

    lowest, highest = torch.aminmax(x)
    size = torch.maximum(highest, -lowest).to(dtype)
    return Parts(
        [partial(patches, chunk) for chunk in _chunks(x, "channel")], scale_for(size).view(1, 1, 1)
    )
