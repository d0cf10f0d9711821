"""Compile all kernels for an H100 or H200 on a machine without a GPU.

    PYTHONPATH=projects:. python benchmarks/compile_offline.py

Prints, as JSON lines, what every variant takes: shared memory in bytes a block, registers a thread,
bytes spilled, and whether it uses ``wgmma``, the tensor cores' instruction.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# `import pcka` means the package, not the benchmark of that name beside this file.
sys.path.append(sys.path.pop(0))

from pcka.core import PatchOptions
from pcka.core.kernels import level
from pcka.core.kernels.launch import Launch

PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
}
# Where a kernel takes a number of 64 bits whatever its value; see the kernels' signatures.
LONG = {"xb", "xc", "yb", "yc", "sb", "sc"}


def launches(dtype: torch.dtype, size: tuple[int, int], **options: Any) -> list[tuple[Launch, Any]]:
    """Return the launches for maps of a size, each with what finds its tensors."""
    student, teacher = (torch.empty(2, 256, *size, dtype=dtype) for _ in range(2))
    found: list[tuple[Launch, Any]] = []
    seen = Launch.__call__
    try:
        Launch.__call__ = lambda self, addresses, stream, find: found.append(  # type: ignore
            (self, [find(name) for name in self.pointers])
        )
        needs = True, False
        _, factor, slope, _ = level.patch_cka(student, teacher, needs, PatchOptions(**options))
        slope.gradient(torch.ones(()), factor)
    finally:
        Launch.__call__ = seen  # type: ignore
    return found


def compile_one(launch: Launch, tensors: list[torch.Tensor]) -> dict[str, Any]:
    """Return what a variant takes on the card."""
    function, signature = launch.kernel.function, {}
    names = function.arg_names
    for name, tensor in zip(names, tensors, strict=False):
        signature[name] = TYPES[tensor.dtype]
    for name, number in zip(names[len(tensors) :], launch.numbers, strict=False):
        signature[name] = "fp32" if isinstance(number, float) else "i64" if name in LONG else "i32"
    signature |= dict.fromkeys(launch.constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(tensors))}
    source = ASTSource(function, signature, launch.constants, aligned)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(compiled.asm["ptx"])
        file.flush()
        command = [PTXAS, "-v", "-arch=sm_90a", file.name, "-o", "/dev/null"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {
        "kernel": function.__name__,
        "constants": launch.constants,
        "types": sorted({signature[name] for name in names[: len(tensors)]}),
        "shared": compiled.metadata.shared,
        "registers": max(map(int, re.findall(r"Used (\d+) registers", text)), default=0),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", text))),
        "wgmma": "wgmma" in compiled.asm["ptx"],
    }


def main() -> None:
    done = set()
    for dtype in (torch.float32, torch.bfloat16):
        for size in ((200, 336), (50, 84)):
            for options in (
                {},
                {"grouping": "batch"},
                {"center": False, "inter": True},
                {"resize": "pad"},
            ):
                for launch, tensors in launches(dtype, size, **options):
                    types = tuple(t.dtype for t in tensors)
                    key = launch.kernel.function.__name__, types, tuple(launch.constants.items())
                    if key not in done:
                        done.add(key)
                        print(json.dumps(compile_one(launch, tensors)), flush=True)


if __name__ == "__main__":
    main()
