"""Feature maps cut into patches: the samples between which PCKA relates.

Shapes: B images, C channels, (H, W) map, (P, Q) patch, (U, V) grid of patches;
G groups, N = U V patches, D features of a patch within its group.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .resize import bilinear, bilinear_adjoint

# grouping: what shares one Gram matrix (G) and what describes a patch in it (D).
_AXES = {
    "channel": ("c", "bpq"),
    "batch": ("b", "cpq"),
    "position": ("pq", "bc"),
}
GROUPINGS = tuple(_AXES)
RESIZES = ("bilinear", "pad")

PatchSize = int | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class PatchOptions:
    """The options of :func:`pcka.core.patch_cka` and :class:`pcka.core.PatchCKA`.

    Args:
        patch_size: P, or ``(P, Q)`` as height and width, in cells of the map.
        grouping: what shares a Gram matrix. ``channel``: one channel of all images (as in the
            paper); it needs equal widths. ``batch``: one image over all channels. ``position``:
            one cell of the patches over all channels and images.
        center: see :func:`pcka.core.cka`. The released code computes ``center=False``.
        inter: the share of the CKA over the features of a patch (*inter*, the transposed patch
            matrix) in the result; the rest is the CKA over patches (*intra*). False is 0, True is
            1/2, and a number in [0, 1] is the share itself. The released code adds the two.
        debiased: see :func:`pcka.core.cka`.
        resize: how to enlarge a map to a multiple of the patch: ``bilinear``, as in the released
            code of arXiv 2401.11824, or ``pad`` with zeros on the right and below, which is faster
            and gives other values.
        gather: use the global batch of all processes; see :mod:`pcka.core.collectives`.

    Raises:
        ValueError: names the option and what it may be.
    """

    patch_size: PatchSize = 16
    grouping: str = "channel"
    center: bool = True
    inter: bool | float = False
    debiased: bool = False
    resize: str = "bilinear"
    gather: bool = False

    def __post_init__(self):
        object.__setattr__(self, "patch_size", patch_shape(self.patch_size))
        check_choice("grouping", self.grouping, GROUPINGS)
        check_choice("resize", self.resize, RESIZES)
        check_estimator(self.center, self.debiased, self.gather)
        inter = self.inter
        if not isinstance(inter, bool | int | float) or not 0 <= inter <= 1:
            raise ValueError(f"inter is true, false or a share in [0, 1], got {inter!r}")

    @property
    def patch_shape(self) -> tuple[int, int]:
        """The height and width of a patch in cells."""
        return cast(tuple[int, int], self.patch_size)  # a pair since __post_init__

    @property
    def share(self) -> float:
        """The share of *inter* as a number."""
        return 0.5 * self.inter if isinstance(self.inter, bool) else float(self.inter)

    @property
    def needs_equal_width(self) -> bool:
        """Whether both maps need equally many channels."""
        # `channel` compares group i with group i, and inter compares feature i with feature i.
        # Otherwise each side's own Gram matrix sums over its channels.
        return self.grouping == "channel" or self.share > 0

    def groups(self, x: Tensor) -> int:
        """Return how many Gram matrices a map ``(B, C, H, W)`` has."""
        if self.grouping == "position":
            return math.prod(self.patch_shape)
        return x.shape[0 if self.grouping == "batch" else 1]

    def check_map(self, height: int, width: int) -> None:
        """Raise ValueError for a map with too few patches for a meaningful CKA.

        One patch always has CKA 1, and so have two centred ones, so such a level would look
        trained without learning anything.
        """
        patches = math.prod(grid_shape(height, width, self.patch_shape))
        needed = 4 if self.debiased else 3 if self.center else 2
        if patches < needed:
            p, q = self.patch_shape
            kind = "debiased" if self.debiased else "centred" if self.center else "uncentred"
            more = {3: " or debiased=False", 2: " or center=False"}.get(patches, "")
            raise ValueError(
                f"a {height}x{width} map has {patches} patch(es) of {p}x{q} cells, but {kind} CKA "
                f"needs {needed} or more: use a smaller patch_size for this level{more}"
            )

    def check_features(self, images: int, channels: int) -> None:
        """Raise ValueError where a CKA over the features (``inter``) has too few of them."""
        if not self.share:
            return
        cells = math.prod(self.patch_shape)
        features = {"channel": images * cells, "batch": channels * cells}.get(
            self.grouping, images * channels
        )
        needed = 4 if self.debiased else 3 if self.center else 2
        if features < needed:
            raise ValueError(
                f"inter compares features with each other, and the grouping {self.grouping!r} has "
                f"{features} of them here, of {needed} or more that it needs: use a larger "
                "patch_size, or inter=False"
            )


def to_patches(x: Tensor, options: PatchOptions) -> Tensor:
    """Cut maps into patches, one Gram matrix's worth of samples per group.

    Args:
        x: ``(B, C, H, W)``.
        options: the grouping gives the shape. ``channel``: G = C, D = B P Q. ``batch``: G = B,
            D = C P Q. ``position``: G = P Q, D = B C.

    Returns:
        ``(G, N, D)``.
    """
    b, c, height, width = x.shape
    (p, q), (u, v) = options.patch_shape, grid_shape(height, width, options.patch_shape)
    sizes = {"b": b, "c": c, "u": u, "p": p, "v": v, "q": q}
    groups, features = (math.prod(sizes[a] for a in axes) for axes in _AXES[options.grouping])
    if options.resize == "pad":
        x = F.pad(x, (0, v * q - width, 0, u * p - height))
    else:
        x = bilinear(x, u * p, v * q)
    patches = x.new_empty(groups, u * v, features)
    _cells(patches, sizes, options.grouping).copy_(x.reshape(b, c, u, p, v, q))
    return patches


def from_patches(gradient: Tensor, out: Tensor, options: PatchOptions) -> Tensor:
    """Write a gradient ``(G, N, D)`` into ``out (B, C, H, W)``: the adjoint of to_patches."""
    b, c, height, width = out.shape
    (p, q), (u, v) = options.patch_shape, grid_shape(height, width, options.patch_shape)
    sizes = {"b": b, "c": c, "u": u, "p": p, "v": v, "q": q}
    x = _cells(gradient, sizes, options.grouping).reshape(b, c, u * p, v * q)
    if options.resize == "pad":
        return out.copy_(x[..., :height, :width])
    return bilinear_adjoint(x, out)


def center_inside(x: Tensor, inside: Tensor, patch_size: PatchSize) -> Tensor:
    """Centre maps over the patches as if the cells outside did not exist, and set those to 0.

    The mean over the cells at the same place in all patches of an image is subtracted from each
    cell. On a map that is a multiple of the patch this is what CKA's centring over the patches
    does, so that centring changes nothing more. A patch wholly outside adds nothing to any Gram
    matrix.

    Args:
        x: ``(B, C, H, W)``.
        inside: ``(B, 1, H, W)``, False for the cells outside.
        patch_size: P or ``(P, Q)``.

    Returns:
        ``(B, C, H, W)``, float32 at least.
    """
    height, width = x.shape[-2:]
    (p, q), (u, v) = patch_shape(patch_size), grid_shape(height, width, patch_size)
    margin = (0, v * q - width, 0, u * p - height)
    # Cells outside are filled and not multiplied by 0: they may hold NaN, and get no gradient.
    x = x.to(torch.promote_types(x.dtype, torch.float32)).masked_fill(~inside, 0)
    cells, count = (
        F.pad(t, margin).unflatten(3, (v, q)).unflatten(2, (u, p)).sum((2, 4))
        for t in (x, inside.to(x.dtype))
    )
    mean = (cells / count.clamp(min=1)).repeat(1, 1, u, v)[..., :height, :width]
    return (x - mean).masked_fill(~inside, 0)


def _cells(patches: Tensor, sizes: dict[str, int], grouping: str) -> Tensor:
    """View patches ``(G, N, D)`` as ``(B, C, U, P, V, Q)``, the order of a map."""
    groups, features = _AXES[grouping]
    order = groups + "uv" + features
    return patches.view([sizes[a] for a in order]).permute([order.index(a) for a in "bcupvq"])


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raise ValueError that lists what an argument may be."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}: one of {', '.join(known)}")


def patch_shape(patch_size: PatchSize) -> tuple[int, int]:
    """Return ``P`` or ``(P, Q)`` as height and width; raise ValueError for anything else."""
    shape = tuple(patch_size) if isinstance(patch_size, Sequence) else (patch_size, patch_size)
    if len(shape) != 2 or any(type(s) is not int or s < 1 for s in shape):
        raise ValueError(f"patch_size is a positive integer or (height, width), got {patch_size!r}")
    return shape[0], shape[1]


def grid_shape(height: int, width: int, patch_size: PatchSize) -> tuple[int, int]:
    """Return how many patches a map has down and across; resizing fills the last ones."""
    p, q = patch_shape(patch_size)
    return -(-height // p), -(-width // q)


def check_estimator(center: bool, debiased: bool, gather: bool) -> None:
    """Raise ValueError for options of :func:`pcka.core.cka` that are not flags or contradict."""
    for name, value in (("center", center), ("debiased", debiased), ("gather", gather)):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is true or false, got {value!r}")
    if debiased and not center:
        raise ValueError("debiased CKA is centred by definition: leave center=True")
