"""Times, launches and memory of a call on a GPU; on a CPU only that it runs."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Call = Callable[[], Any]


def device_of(toy: bool) -> torch.device:
    """Return the GPU; at toy sizes the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not toy:
        raise SystemExit("pcka: no GPU here; --toy runs every section on a CPU at toy sizes")
    return torch.device("cpu")


def describe(device: torch.device) -> dict[str, str]:
    """Return what a figure has to name."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = "none"
    return {"card": card, "torch": torch.__version__, "triton": version}


def milliseconds(call: Call, rounds: int = 20, warm: int = 3) -> float:
    """Return the median time of a call in milliseconds, from the host's start to the card's end."""
    for _ in range(warm):
        call()
    _wait()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        _wait()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def pipelined(call: Call, rounds: int = 20, warm: int = 3) -> float:
    """Return the time of a call in milliseconds among others, the host running ahead."""
    for _ in range(warm):
        call()
    _wait()
    start = time.perf_counter()
    for _ in range(rounds):
        call()
    _wait()
    return 1e3 * (time.perf_counter() - start) / rounds


def captured(call: Call) -> Call | None:
    """Return the replay of a call as a CUDA graph; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def in_graph(call: Call, rounds: int = 20) -> float | str:
    """Return the time of a call as a CUDA graph in milliseconds."""
    replay = captured(call)
    return "" if replay is None else milliseconds(replay, rounds)


def peak_megabytes(call: Call) -> float | str:
    """Return the memory that a call takes at its height, above what was there."""
    if not torch.cuda.is_available():
        return ""
    call()
    _wait()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    _wait()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def kernels(call: Call) -> tuple[int, float, dict[str, float]] | None:
    """Return how many kernels a call launches, how long they run (ms), and each name's share."""
    if not torch.cuda.is_available():
        return None
    from torch.profiler import ProfilerActivity, profile

    call()
    _wait()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        _wait()
    count, total, names = 0, 0.0, {}
    for event in profiler.key_averages():
        busy = event.self_device_time_total / 1e3
        if busy:
            count, total = count + event.count, total + busy
            names[event.key[:40]] = round(names.get(event.key[:40], 0.0) + busy, 4)
    return count, total, dict(sorted(names.items(), key=lambda item: -item[1])[:14])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
