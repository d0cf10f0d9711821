"""One loss over the batches of all processes, so that DDP trains as one process would.

Every process computes the loss of the *global* batch, and the gradient of its own part times the
number of processes. DDP's mean over the processes is then the gradient of the whole batch. Without
a process group these functions do nothing.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return how many processes share the batch; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_sum_(x: Tensor) -> Tensor:
    """Sum over all processes, in place if x is contiguous; x has one shape on all of them."""
    return _all_reduce(x, "SUM")


def all_max_(x: Tensor) -> Tensor:
    """Take the largest over all processes, as :func:`all_sum_` takes the sum."""
    return _all_reduce(x, "MAX")


def _all_reduce(x: Tensor, operation: str) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(x, op=getattr(dist.ReduceOp, operation))
    return x


def gather_samples(x: Tensor) -> Tensor:
    """Gather ``(B, ...)`` of every process, in their order, into ``(world * B, ...)``.

    The backward sums the gradients of a sample over all processes.
    """
    if world_size() == 1:
        return x
    check_same_shape(x)
    return _GatherSamples.apply(x)


def check_same_shape(x: Tensor) -> None:
    """Raise ValueError if the shapes of the processes differ: a collective would hang or mix up."""
    if world_size() == 1:
        return
    mine = torch.tensor((x.dim(), *x.shape, *[0] * (8 - x.dim())), device=x.device)
    gathered = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(gathered, mine)
    shapes = [tuple(s[1 : 1 + int(s[0])].tolist()) for s in gathered]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"gather=True needs tensors of one shape on all processes, got {shapes}: "
            "pad the batches alike and drop the last incomplete one"
        )


class _GatherSamples(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = all_sum_(gradient.clone(memory_format=torch.contiguous_format))
        return total.chunk(world_size())[dist.get_rank()]
