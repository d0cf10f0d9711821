"""Clocks for the benchmarks: variants take turns in one run, on CPU or GPU, and medians count."""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

# `import pcka` means the package, not the script of that name in this folder: look here last.
_HERE = str(Path(__file__).parent)
if sys.path[0] == _HERE:
    sys.path.append(sys.path.pop(0))


# What a CPU is timed by: `time.process_time`, this process alone, on a machine that others use.
clock = time.perf_counter


def argument_parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark takes; a benchmark adds its sizes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="not wall time: on a busy machine")
    return parser


def prepare(args: argparse.Namespace) -> torch.device:
    """Apply those options; the device to measure."""
    global clock
    if args.cpu_time:
        clock = time.process_time
    torch.set_num_threads(args.threads)
    return torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def describe(device: torch.device) -> str:
    """The device, as a result has to name it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":")[1].strip() for line in f if "model name" in line), "CPU")
    return f"{model}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """One timed call; by events on a GPU."""
    if device.type != "cuda":
        start = clock()
        call()
        return clock() - start
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    call()
    stop.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(stop) / 1e3


def medians(
    calls: Mapping[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, float]:
    """Median seconds of each call, warmed up by the caller; every round runs all in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call, device))
    return {name: statistics.median(t) for name, t in times.items()}


def rate_calls(device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """A GEMM and a copy that tell what the machine can do: timed in turn with the variants."""
    size = 1024 if device.type == "cpu" else 4096
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.randn((1 if device.type == "cpu" else 16) << 24, device=device)
    target = torch.empty_like(source)
    product = a @ b
    target.copy_(source)
    return {
        "gemm": lambda: torch.mm(a, b, out=product),
        "copy": lambda: target.copy_(source),
    }


def rates(times: Mapping[str, float], device: torch.device) -> tuple[float, float]:
    """Multiply-adds times two per second, and bytes moved per second, of :func:`rate_calls`."""
    size = 1024 if device.type == "cpu" else 4096
    moved = 2 * 4 * ((1 if device.type == "cpu" else 16) << 24)
    return 2 * size**3 / times["gemm"], moved / times["copy"]


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Memory of tensors that one call takes at its height, above what was there."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    # What the process holds says little: the heap keeps what was freed. So every allocation.
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            call()
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"])
    return max(accumulate(e["args"]["Bytes"] for e in changes), default=0)
