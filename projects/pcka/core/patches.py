"""Feature maps cut into patches: the samples between which PCKA relates.

Shapes: B images, C channels, (H, W) map, (P, Q) patch, (U, V) grid of patches;
G groups, N = U V patches, D features of a patch within its group.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

# grouping: what shares one Gram matrix (G) and what describes a patch in it (D).
_AXES = {
    "channel": ("c", "bpq"),
    "batch": ("b", "cpq"),
    "position": ("pq", "bc"),
}
GROUPINGS = tuple(_AXES)

PatchSize = int | Sequence[int]


def to_patches(x: Tensor, patch_size: PatchSize, grouping: str) -> Tensor:
    """Cut maps into patches, one Gram matrix's worth of samples per group.

    A map whose size is no multiple of the patch is first resized bilinearly up to one, as in
    the released code of arXiv 2401.11824.

    Args:
        x: ``(B, C, H, W)``.
        patch_size: P, or ``(P, Q)`` as height and width, in cells of the map.
        grouping: ``channel``: G = C, D = B P Q (the paper's); ``batch``: G = B, D = C P Q;
            ``position``: G = P Q, D = B C.

    Returns:
        ``(G, N, D)``.

    Raises:
        ValueError: an unknown grouping, a bad patch size, or a tensor that is no map.
    """
    if x.dim() != 4:
        raise ValueError(f"a feature map is (B, C, H, W), got {tuple(x.shape)}")
    if grouping not in _AXES:
        raise ValueError(f"unknown grouping {grouping!r}: one of {', '.join(GROUPINGS)}")
    (p, q), (u, v) = patch_shape(patch_size), grid_shape(*x.shape[-2:], patch_size)
    if x.shape[-2:] != (u * p, v * q):
        x = F.interpolate(x, size=(u * p, v * q), mode="bilinear", align_corners=False)
    axes = dict(zip("bcupvq", range(6), strict=True))
    groups, features = _AXES[grouping]
    x = x.reshape(*x.shape[:2], u, p, v, q)
    sizes = x.shape
    x = x.permute([axes[a] for a in groups + "uv" + features])
    count = 1
    for a in groups:
        count *= sizes[axes[a]]
    return x.reshape(count, u * v, -1)


def patch_shape(patch_size: PatchSize) -> tuple[int, int]:
    """``P`` or ``(P, Q)`` as height and width in cells; ValueError for anything else."""
    shape = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    if len(shape) != 2 or any(
        isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in shape
    ):
        raise ValueError(f"patch_size is a positive integer or (height, width), got {patch_size!r}")
    return shape


def grid_shape(height: int, width: int, patch_size: PatchSize) -> tuple[int, int]:
    """Patches down and across a ``(height, width)`` map, the last ones filled by resizing."""
    p, q = patch_shape(patch_size)
    return -(-height // p), -(-width // q)


def check_grid(height: int, width: int, patch_size: PatchSize, *, center: bool) -> None:
    """Raise ValueError where a map has too few patches for CKA to say anything.

    One patch always has CKA 1, as have two centred ones: such a level would only look trained.
    """
    u, v = grid_shape(height, width, patch_size)
    needed = 3 if center else 2
    if u * v < needed:
        p, q = patch_shape(patch_size)
        kind = "centred" if center else "uncentred"
        raise ValueError(
            f"a {height}x{width} map has {u * v} patch(es) of {p}x{q} cells, but {kind} CKA "
            f"needs {needed} or more: use a smaller patch_size for this level"
            + (" or center=False" if u * v == 2 else "")
        )
