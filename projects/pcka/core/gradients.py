"""Gradients of losses at features, and their size: digits are kept where features are half maps."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Losses are multiplied by this before they are differentiated, so that small gradients of float16
# features do not underflow. It is for ratios, from which it drops out; a power of two rounds
# nothing.
SCALE = 2.0**10


def scaled_gradients(
    loss: Tensor, inputs: Sequence[Tensor], *, retain_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Return ``SCALE`` times the gradient of a loss ``()`` for each input, None where it has none.

    Nothing is accumulated.
    """
    scale = torch.full_like(loss, SCALE)
    return torch.autograd.grad(loss, inputs, scale, retain_graph=retain_graph, allow_unused=True)


def norm(gradient: Tensor) -> Tensor:
    """Return the L2 norm over all entries, in float32, or float64 for float64."""
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    return torch.linalg.vector_norm(gradient, dtype=dtype)
