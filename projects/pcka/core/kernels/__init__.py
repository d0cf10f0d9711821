"""PCKA and CKA on a GPU, in Triton: few launches, and maps are read in their own type.

=================  ================================================================================
``cells``          kernels that read maps: means and peaks, and cutting into patches
``gram``           kernels that multiply patches: the Gram matrices of both sides
``pull``           kernels that read Gram matrices: CKA, and the gradient of the cells
``adjoint``        the kernel that writes the gradient of a map
``plan``           the sizes of a comparison: chunks, splits, and the workspace
``steps``          what a comparison launches, worked out once for all maps of these sizes
``level``          PCKA and CKA by these kernels: memory, and the order of the launches
``launch``         starting a kernel without Triton's bookkeeping of every call
``tiles``          tile sizes, and the card that they were chosen on
=================  ================================================================================

Triton comes with torch's CUDA builds, and the first call on a CUDA tensor imports it. Options that
have no kernel, and machines without Triton, take the plain form of :mod:`pcka.core.streaming`. With
``TRITON_INTERPRET=1`` CPU tensors take the kernels as well, run by Triton's interpreter.
"""

import importlib.util
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..collectives import world_size
from ..patches import PatchOptions, grid_shape

_TYPES = (torch.float32, torch.float16, torch.bfloat16)
# Matrices with no more rows than this take N x N Gram matrices even where D x D ones are cheaper.
_FEW_ROWS = 1024


def covers_maps(student: Tensor, teacher: Tensor, options: PatchOptions) -> bool:
    """Return whether :func:`level.patch_cka` computes this PCKA: ``(B, C, H, W)`` maps."""
    if not _covers(student, teacher) or options.grouping == "position":
        return False
    if options.debiased or (options.share and (options.center or options.grouping == "batch")):
        return False
    if options.gather and options.grouping == "channel" and world_size() > 1:
        return False
    down, across = grid_shape(student.shape[2], student.shape[3], options.patch_shape)
    p, q = options.patch_shape
    cells = p * q * (student.shape[1] if options.grouping == "batch" else student.shape[0])
    return down * across <= 2 * cells  # beyond, the form over the features takes fewer products


def covers_matrices(x: Tensor, y: Tensor, debiased: bool) -> bool:
    """Return whether :func:`level.cka` computes the CKA of ``(G, N, Dx)`` and ``(G, N, Dy)``."""
    if debiased or not _covers(x, y):
        return False
    return x.shape[-2] <= max(_FEW_ROWS, x.shape[-1])


def _covers(x: Tensor, y: Tensor) -> bool:
    if x.dtype not in _TYPES or y.dtype not in _TYPES or x.device != y.device or not x.numel():
        return False
    return x.device.type in _devices() and _has_triton()


def _devices() -> tuple[str, ...]:
    return ("cuda", "cpu") if os.environ.get("TRITON_INTERPRET") == "1" else ("cuda",)


@cache
def _has_triton() -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 0)


def patch_cka_with_gradients(*arguments: Any) -> tuple[Any, ...]:
    """Call :func:`level.patch_cka`."""
    from . import level

    return level.patch_cka(*arguments)


def cka_with_gradients(*arguments: Any) -> tuple[Any, ...]:
    """Call :func:`level.cka`."""
    from . import level

    return level.cka(*arguments)
