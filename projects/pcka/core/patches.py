"""Feature maps cut into patches: the samples between which PCKA relates.

Shapes: B images, C channels, (H, W) map, (P, Q) patch, (U, V) grid of patches;
G groups, N = U V patches, D features of a patch within its group.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .resize import resize as bilinear
from .resize import resize_adjoint as bilinear_adjoint

# grouping: what shares one Gram matrix (G) and what describes a patch in it (D).
_AXES = {
    "channel": ("c", "bpq"),
    "batch": ("b", "cpq"),
    "position": ("pq", "bc"),
}
GROUPINGS = tuple(_AXES)
RESIZES = ("bilinear", "pad")

PatchSize = int | Sequence[int]


def to_patches(x: Tensor, patch_size: PatchSize, grouping: str, resize: str = "bilinear") -> Tensor:
    """Cut maps into patches, one Gram matrix's worth of samples per group.

    Args:
        x: ``(B, C, H, W)``.
        patch_size: P, or ``(P, Q)`` as height and width, in cells of the map.
        grouping: ``channel``: G = C, D = B P Q (the paper's); ``batch``: G = B, D = C P Q;
            ``position``: G = P Q, D = B C.
        resize: how a map whose size is no multiple of the patch becomes one: ``bilinear``, as in
            the released code of arXiv 2401.11824, or ``pad`` with zeros to the right and below,
            which is faster and gives other values.

    Returns:
        ``(G, N, D)``.

    Raises:
        ValueError: an unknown grouping or resize, a bad patch size, or a tensor that is no map.
    """
    if x.dim() != 4:
        raise ValueError(f"a feature map is (B, C, H, W), got {tuple(x.shape)}")
    check_choice("grouping", grouping, GROUPINGS)
    check_choice("resize", resize, RESIZES)
    b, c, height, width = x.shape
    (p, q), (u, v) = patch_shape(patch_size), grid_shape(height, width, patch_size)
    sizes = {"b": b, "c": c, "u": u, "p": p, "v": v, "q": q}
    groups, features = (math.prod(sizes[axis] for axis in axes) for axes in _AXES[grouping])
    if resize == "pad":
        x = F.pad(x, (0, v * q - width, 0, u * p - height))
    else:
        x = bilinear(x, u * p, v * q)
    patches = x.new_empty(groups, u * v, features)
    _cells(patches, sizes, grouping).copy_(x.reshape(b, c, u, p, v, q))
    return patches


def from_patches(
    gradient: Tensor,
    out: Tensor,
    patch_size: PatchSize,
    grouping: str,
    resize: str = "bilinear",
) -> Tensor:
    """The adjoint of :func:`to_patches`: a gradient ``(G, N, D)`` into ``out (B, C, H, W)``."""
    b, c, height, width = out.shape
    (p, q), (u, v) = patch_shape(patch_size), grid_shape(height, width, patch_size)
    cells = _cells(gradient, {"b": b, "c": c, "u": u, "p": p, "v": v, "q": q}, grouping)
    x = cells.reshape(b, c, u * p, v * q)
    if resize == "pad":
        return out.copy_(x[..., :height, :width])
    return bilinear_adjoint(x, out)


def center_inside(x: Tensor, inside: Tensor, patch_size: PatchSize) -> Tensor:
    """Centre maps over the patches, as if cells outside were not there; those become 0.

    From each cell goes the mean over the cells at its place in all patches of its image. On a map
    that is a multiple of the patch this is the centring of CKA over the patches, which then finds
    nothing left to do, and a patch wholly outside adds nothing to any Gram matrix.

    Args:
        x: ``(B, C, H, W)``.
        inside: ``(B, 1, H, W)``, False where a cell does not count.
        patch_size: P or ``(P, Q)``.

    Returns:
        ``(B, C, H, W)``, float32 at least.
    """
    height, width = x.shape[-2:]
    (p, q), (u, v) = patch_shape(patch_size), grid_shape(height, width, patch_size)
    margin = (0, v * q - width, 0, u * p - height)
    # Filled, not multiplied: what lies outside may be anything, and gets no gradient.
    x = x.to(torch.promote_types(x.dtype, torch.float32)).masked_fill(~inside, 0)
    cells, count = (F.pad(t, margin).unflatten(3, (v, q)).unflatten(2, (u, p)).sum((2, 4))
                    for t in (x, inside.to(x.dtype)))  # fmt: skip
    mean = (cells / count.clamp(min=1)).repeat(1, 1, u, v)[..., :height, :width]
    return (x - mean).masked_fill(~inside, 0)


def _cells(patches: Tensor, sizes: dict[str, int], grouping: str) -> Tensor:
    """Patches ``(G, N, D)`` as a view ``(B, C, U, P, V, Q)``, in the order of a map."""
    groups, features = _AXES[grouping]
    order = groups + "uv" + features
    return patches.view([sizes[a] for a in order]).permute([order.index(a) for a in "bcupvq"])


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raise ValueError that lists what an argument may be."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}: one of {', '.join(known)}")


def patch_shape(patch_size: PatchSize) -> tuple[int, int]:
    """``P`` or ``(P, Q)`` as height and width in cells; ValueError for anything else."""
    shape = tuple(patch_size) if isinstance(patch_size, Sequence) else (patch_size, patch_size)
    if len(shape) != 2 or any(
        isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in shape
    ):
        raise ValueError(f"patch_size is a positive integer or (height, width), got {patch_size!r}")
    return shape


def grid_shape(height: int, width: int, patch_size: PatchSize) -> tuple[int, int]:
    """Patches down and across a ``(height, width)`` map, the last ones filled by resizing."""
    p, q = patch_shape(patch_size)
    return -(-height // p), -(-width // q)


def check_grid(
    height: int, width: int, patch_size: PatchSize, *, center: bool, debiased: bool = False
) -> None:
    """Raise ValueError where a map has too few patches for CKA to say anything.

    One patch always has CKA 1, as have two centred ones: such a level would only look trained.
    """
    u, v = grid_shape(height, width, patch_size)
    needed = 4 if debiased else 3 if center else 2
    if u * v < needed:
        p, q = patch_shape(patch_size)
        kind = "debiased" if debiased else "centred" if center else "uncentred"
        raise ValueError(
            f"a {height}x{width} map has {u * v} patch(es) of {p}x{q} cells, but {kind} CKA "
            f"needs {needed} or more: use a smaller patch_size for this level"
            + (" or debiased=False" if u * v == 3 else " or center=False" if u * v == 2 else "")
        )
