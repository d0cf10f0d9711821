"""PCKA: CKA between the patches of two feature maps (arXiv 2401.11824, section 3.3)."""

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..cka import working_dtype
from ..closed_form import cka_with_gradients
from ..distributed import all_sum_, check_same_shape, world_size
from ..fused import with_gradients
from ..patches import (
    GROUPINGS,
    RESIZES,
    PatchSize,
    center_inside,
    check_choice,
    check_grid,
    from_patches,
    patch_shape,
    to_patches,
)
from .base import DistillLoss, check_estimator

# The part of a map that is worked on at a time, in bytes: it stays in the cache of a CPU, and
# fills a GPU. All else that is alive at once is a small multiple of it.
WORKSPACE = {"cpu": 2 << 20, "cuda": 32 << 20}


class _Options(NamedTuple):
    patch_size: PatchSize
    grouping: str
    center: bool
    inter: float
    debiased: bool
    resize: str
    gather: bool


def patch_cka(
    student: Tensor,
    teacher: Tensor,
    *,
    patch_size: PatchSize = 16,
    grouping: str = "channel",
    center: bool = True,
    inter: bool | float = False,
    debiased: bool = False,
    resize: str = "bilinear",
    gather: bool = False,
) -> Tensor:
    """Mean CKA over the groups of two maps.

    Args:
        student: ``(B, C, H, W)``.
        teacher: ``(B, C', H, W)``; C' may differ from C with the groupings ``batch`` and
            ``position`` unless ``inter``.
        patch_size: P or ``(P, Q)`` in cells of the map.
        grouping: what shares a Gram matrix: ``channel`` (the paper's), ``batch``, ``position``;
            see :func:`pcka.core.patches.to_patches`.
        center: see :func:`pcka.core.cka`. The released code is ``center=False``.
        inter: the share of the CKA over the features of a patch (*inter*, the transposed patch
            matrix) in the result, the rest being the CKA over patches (*intra*): False is 0,
            True 1/2, a number in [0, 1] itself. The released code adds the two.
        debiased: see :func:`pcka.core.cka`.
        resize: see :func:`pcka.core.patches.to_patches`.
        gather: of the global batch of all processes; see :mod:`pcka.core.distributed`.

    Returns:
        a scalar in [0, 1] (debiased: [-1, 1]). Differentiable once.

    Raises:
        ValueError: shapes that do not fit, or too few patches for a signal.
        TypeError: inputs that are not floating point.
    """
    options = _Options(patch_size, grouping, center, _share(inter), debiased, resize, gather)
    _check_maps(student, teacher, options)
    if gather:
        check_same_shape(student)
    return with_gradients(partial(_compute, options=options), student, teacher)


class PatchCKA(DistillLoss):
    """``1 -`` :func:`patch_cka`, as a loss; the arguments are the same."""

    inputs = "maps"
    similarity = "cka"

    def __init__(
        self,
        *,
        patch_size: PatchSize = 16,
        grouping: str = "channel",
        center: bool = True,
        inter: bool | float = False,
        debiased: bool = False,
        resize: str = "bilinear",
        gather: bool = False,
    ):
        check_choice("grouping", grouping, GROUPINGS)
        check_choice("resize", resize, RESIZES)
        check_estimator(center, debiased, gather)
        self.needs_equal_width = _needs_equal_width(grouping, _share(inter))
        super().__init__(
            patch_size=patch_shape(patch_size),
            grouping=grouping,
            center=center,
            inter=inter,
            debiased=debiased,
            resize=resize,
            gather=gather,
        )

    def check_map(self, height: int, width: int) -> None:
        """Raise ValueError for a map of too few patches."""
        patch_size, center, debiased = (
            self.options[name] for name in ("patch_size", "center", "debiased")
        )
        check_grid(height, width, patch_size, center=center, debiased=debiased)

    def without_padding(self, x: Tensor, inside: Tensor) -> Tensor:
        """A patch wholly outside adds nothing to the Gram matrices, see :func:`center_inside`.

        With ``inter``, whose centring is another, the cells are 0.
        """
        if self.options["center"] and not self.options["inter"]:
            return center_inside(x, inside, self.options["patch_size"])
        return super().without_padding(x, inside)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``(B, C, H, W)``, ``(B, C', H, W)`` -> scalar in [0, 1]; debiased: [0, 2]."""
        return 1 - patch_cka(student, teacher, **self.options)


def _compute(student: Tensor, teacher: Tensor, needs: tuple[bool, bool], options: _Options):
    """Value and gradients, chunk by chunk, so that only the gradients take a map's memory."""
    maps, dtype = (student, teacher), working_dtype(student, teacher)
    how = options.patch_size, options.grouping, options.resize
    gradients = [
        torch.empty(m.shape, dtype=dtype, device=m.device) if need else None
        for m, need in zip(maps, needs, strict=True)
    ]
    # Written in place: small results kept between the chunks would tear holes into the heap.
    values, done = torch.empty(_groups(student, options), dtype=dtype, device=student.device), 0
    for chunk in _chunks(student, options.grouping):
        parts = [m[chunk].to(dtype) for m in maps]
        value, *slopes = _intra_and_inter(*(to_patches(p, *how) for p in parts), needs, options)
        values[done : done + len(value)] = value
        done += len(value)
        for gradient, slope in zip(gradients, slopes, strict=True):
            if slope is not None:
                from_patches(slope, gradient[chunk], *how)
    factor = 1 / len(values)
    value = values.mean()
    if options.gather and options.grouping == "batch":
        # Each image has a Gram matrix of its own: the groups are spread, not their features.
        value = all_sum_(value) / world_size()
    elif options.gather:
        factor *= world_size()  # for DDP's mean
    return value, factor, *gradients


def _groups(x: Tensor, options: _Options) -> int:
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


def _intra_and_inter(x: Tensor, y: Tensor, needs: tuple[bool, bool], options: _Options):
    """CKA of patches ``(G, N, D)`` and its gradients, over the patches and over their features."""
    spread = options.gather and options.grouping != "batch" and world_size() > 1
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


def _share(inter: bool | float) -> float:
    if isinstance(inter, bool):
        return 0.5 if inter else 0.0
    if not isinstance(inter, int | float) or not 0 <= inter <= 1:
        raise ValueError(f"inter is true, false or a share in [0, 1], got {inter!r}")
    return float(inter)


def _needs_equal_width(grouping: str, share: float) -> bool:
    # Per channel, group i meets group i; inter relates feature i to feature i. Otherwise the
    # channels are summed over within each side's own Gram matrix.
    return grouping == "channel" or share > 0


def _check_maps(student: Tensor, teacher: Tensor, options: _Options) -> None:
    shapes = tuple(student.shape), tuple(teacher.shape)
    if student.dim() != 4 or teacher.dim() != 4:
        raise ValueError(f"feature maps are (B, C, H, W), got {shapes[0]} and {shapes[1]}")
    for name, value in (("student", student), ("teacher", teacher)):
        if not value.is_floating_point():
            raise TypeError(f"patch_cka needs floating-point maps, the {name}'s is {value.dtype}")
    if 0 in shapes[0] + shapes[1]:
        raise ValueError(f"empty feature maps: student {shapes[0]}, teacher {shapes[1]}")
    if shapes[0][0] != shapes[1][0] or shapes[0][2:] != shapes[1][2:]:
        raise ValueError(
            f"student {shapes[0]} and teacher {shapes[1]} differ in batch or map size: "
            "bring them to one size first"
        )
    if _needs_equal_width(options.grouping, options.inter) and shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"student {shapes[0]} and teacher {shapes[1]} differ in channels: adapt the student "
            "(conv1x1), or use grouping 'batch' or 'position' without inter"
        )
    check_choice("grouping", options.grouping, GROUPINGS)
    check_choice("resize", options.resize, RESIZES)
    check_estimator(options.center, options.debiased, options.gather)
    check_grid(*shapes[0][2:], options.patch_size, center=options.center, debiased=options.debiased)
