"""Launching Triton kernels with little work on the host.

``kernel[grid](...)`` looks at every argument of every launch to find the variant to run: some 50
microseconds for the long argument lists here, more than most of the kernels take. A
:class:`Kernel` remembers the variant by the few things that can change it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

# The variants of a kernel, by device, types, alignment and constants: a test counts them.
_Variants = dict[tuple[Any, ...], Any]


class Kernel:
    """A Triton kernel whose variants do not depend on sizes.

    Integers are never specialised, so that a map of another size finds the same machine code. The
    constants of the kernel come last in its signature.
    """

    def __init__(self, function: Any):
        annotated = function.__annotations__
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        self.constants = [n for n in names if annotated.get(n) is triton.language.constexpr]
        sizes = [n for n in names if n not in self.constants]
        self.function = triton.jit(function, do_not_specialize=sizes[_pointers(sizes) :])
        self.variants: _Variants = {}

    def __call__(
        self,
        grid: tuple[int, int, int],
        tensors: Sequence[Tensor],
        numbers: Sequence[int | float],
        constants: Mapping[str, Any],
        warps: int = 4,
        stages: int = 3,
    ) -> None:
        """Launch the kernel on the current stream of the current device.

        Args:
            grid: how many programs run, along three axes.
            tensors: the pointers, first in the kernel's signature.
            numbers: the sizes and strides, next in it.
            constants: what is compiled into a variant, by name and in the kernel's order.
            warps, stages: Triton's ``num_warps`` and ``num_stages``.
        """
        key = (
            tensors[0].device.index,
            warps,
            stages,
            *constants.values(),
            *[t.dtype for t in tensors],
            *[t.data_ptr() % 16 == 0 for t in tensors],
        )
        found = self.variants.get(key)
        if found is not None:
            found[grid](*tensors, *numbers, *constants.values())
            return
        assert list(constants) == self.constants, (list(constants), self.constants)
        compiled = self.function[grid](
            *tensors, *numbers, **constants, num_warps=warps, num_stages=stages
        )
        # The interpreter returns nothing, and is looked up anew each time.
        if isinstance(self.function, JITFunction) and compiled is not None:
            self.variants[key] = compiled


def _pointers(names: Sequence[str]) -> int:
    """Return how many arguments are pointers: their names end in ``_ptr``."""
    return sum(name.endswith("_ptr") for name in names)


def on_device(x: Tensor) -> Any:
    """Return a context in which the device of ``x`` is the current one."""
    return torch.cuda.device_of(x)
