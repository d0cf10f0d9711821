"""Launching Triton kernels with little work on the host.

``kernel[grid](...)`` inspects all arguments of every launch to find the variant to run. For the
long argument lists here that takes longer than the kernels. A :class:`Launch` inspects them once,
and needs only addresses from then on.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction


class Kernel:
    """A Triton kernel whose variants do not depend on sizes.

    In its signature pointers come first, with names that end in ``_ptr``, then numbers, then
    constants. Numbers are never specialised, so that maps of all sizes run the same machine code.

    Attributes:
        variants: the hashes of the variants that have been compiled or loaded.
    """

    def __init__(self, function: Any):
        code, annotated = function.__code__, function.__annotations__
        names = code.co_varnames[: code.co_argcount]
        numbers = [
            name
            for name in names
            if annotated.get(name) is not triton.language.constexpr and not name.endswith("_ptr")
        ]
        self.function = triton.jit(function, do_not_specialize=numbers)
        self.variants: set[str] = set()

    def launch(
        self,
        grid: tuple[int, int, int],
        arguments: Sequence[Tensor | int | float],
        constants: Mapping[str, Any],
        warps: int,
        stages: int,
    ) -> Any:
        """Launch the kernel by Triton's own way; return the variant that ran, if it is compiled."""
        options = {"num_warps": warps, "num_stages": stages}
        compiled = self.function[grid](*arguments, **constants, **options)
        if not isinstance(self.function, JITFunction):
            return None  # the interpreter
        self.variants.add(compiled.hash)
        return compiled


class Launch:
    """A launch with everything fixed except for the addresses.

    Args:
        kernel: the kernel to launch.
        grid: how many programs run, along three axes.
        pointers: the names of the tensors that it takes, in the order of its signature.
        numbers: the sizes and strides that follow.
        constants: the constants of the variant by name, in the order of its signature.
        warps, stages: Triton's ``num_warps`` and ``num_stages``.
    """

    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        pointers: Sequence[str],
        numbers: Sequence[int | float],
        constants: Mapping[str, Any],
        warps: int = 4,
        stages: int = 3,
    ):
        self.kernel, self.grid, self.pointers = kernel, grid, tuple(pointers)
        self.numbers, self.constants = tuple(numbers), dict(constants)
        self.warps, self.stages = warps, stages
        self.tail = (*numbers, *constants.values())
        self.run: Callable[..., None] | None = None

    def __call__(
        self, addresses: Mapping[str, int], stream: int, tensor: Callable[[str], Tensor]
    ) -> None:
        """Launch on a stream of the current device.

        Args:
            addresses: the address of every tensor, by name; aligned as they were at the first
                launch.
            stream: the handle of the stream.
            tensor: returns the tensor of a name; called by the first launch alone.
        """
        if self.run is not None:
            self.run(*[addresses[name] for name in self.pointers], *self.tail, stream=stream)
            return
        arguments = [*map(tensor, self.pointers), *self.numbers]
        compiled = self.kernel.launch(self.grid, arguments, self.constants, self.warps, self.stages)
        if compiled is not None:
            self.run = compiled[self.grid]


def current_stream(device: torch.device) -> int:
    """Return the handle of the current stream of a device; 0 on a CPU."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
