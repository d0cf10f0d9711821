"""Autograd for values whose gradients are computed together with them."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

# (x, y, needs) -> value, factor, slope of x or None, slope of y or None. The gradients are factor
# times the slopes; a slope is a tensor or an UnfinishedGradient. The value is a scalar, or (...)
# whose entry i depends on x[i] and y[i] alone.
Compute = Callable[[Tensor, Tensor, tuple[bool, bool]], Sequence[Any]]


class UnfinishedGradient(Protocol):
    """A gradient whose last step waits for backward, because it needs the incoming gradient."""

    def gradient(self, outer: Tensor, factor: float) -> Tensor:
        """Return the gradient in the type of its input, times ``factor`` and ``outer (...)``."""


Slope = Tensor | UnfinishedGradient


def with_gradients(compute: Compute, x: Tensor, y: Tensor) -> Tensor:
    """Return the value of ``compute`` as a differentiable function of x and y, autocast off.

    The slopes are kept in place of the intermediate results that autograd would keep, and
    backward is one multiplication. Differentiating twice raises RuntimeError.

    A compiled model calls this function without tracing it, because traced loops over chunks run
    several times slower.
    """
    if torch.compiler.is_dynamo_compiling():
        # ``disable`` imports the compiler, so it is called only while a model is compiled.
        return torch.compiler.disable(with_gradients)(compute, x, y)
    if torch.is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return with_gradients(compute, x, y)
    _keep_freed_memory()
    needs = x.requires_grad, y.requires_grad
    if torch.is_grad_enabled() and any(needs):
        return _WithGradients.apply(x, y, compute, needs)
    with torch.no_grad():
        return compute(x, y, (False, False))[0]


@cache
def _keep_freed_memory() -> None:
    """Let the next step reuse the memory that one step frees.

    glibc returns free memory at the end of the heap to the system, and the next step pays for it
    with page faults. This ends once a block as large as this one has been freed, which is larger
    than any that a step takes.
    """
    torch.empty(16 << 20, dtype=torch.uint8, device="cpu")


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, compute, needs):
        value, ctx.factor, *ctx.slopes = compute(x, y, needs)
        ctx.save_for_backward(x, y)
        ctx.compute, ctx.needs, ctx.dtypes = compute, needs, (x.dtype, y.dtype)
        return value

    @staticmethod
    def backward(ctx, outer):
        slopes, ctx.slopes = ctx.slopes, None
        with torch.no_grad():
            if slopes is None:  # used up by the first backward of a retained graph
                x, y = ctx.saved_tensors
                with torch.autocast(x.device.type, enabled=False):
                    _, _, *slopes = ctx.compute(x, y, ctx.needs)
            gradients = [
                slope if slope is None else _finish(slope, outer, ctx.factor).to(ctx.dtypes[i])
                for i, slope in enumerate(slopes)
            ]
        # torch's once_differentiable stays silent where the incoming gradient is a constant: the
        # gradient of a penalty on this gradient would then be missing without an error.
        if torch.is_grad_enabled():  # create_graph
            gradients = [
                g if g is None else _Once.apply(g, outer, *ctx.saved_tensors) for g in gradients
            ]
        return *gradients, None, None


class _Once(torch.autograd.Function):
    """Attach a gradient to the tensors that it depends on; raise an error if differentiated."""

    @staticmethod
    def forward(ctx, gradient, *inputs):
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx, *outer):
        raise RuntimeError(
            "CKA's gradient is formed in closed form and cannot be differentiated a second time"
        )


def _finish(slope: Slope, outer: Tensor, factor: float) -> Tensor:
    """Return the gradient that a slope ``(..., N, D)`` and an incoming gradient ``(...)`` make."""
    if not isinstance(slope, Tensor):
        return slope.gradient(outer, factor)
    # Multiply by the incoming gradient (the loss scale) before casting to half, or small
    # gradients underflow.
    scale = outer if factor == 1 else factor * outer
    return slope.mul_(scale.reshape(scale.shape + (1,) * (slope.dim() - scale.dim())))
