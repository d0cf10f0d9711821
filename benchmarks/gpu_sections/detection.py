"""A distillation step of Faster R-CNN, R101 teaching R50, over the student's and the teacher's."""

from typing import Any

from benchmarks import step
from pcka.detection import load_config

from .clocks import describe, device_of

CONFIGS = "pcka_faster_rcnn.yaml", "pcka_batch_faster_rcnn.yaml"


def measure(quick: bool, toy: bool) -> dict[str, Any]:
    """Return milliseconds a step by the type of training, and distilling over both alone."""
    device = device_of(toy)
    size, batch, rounds = ((320, 544), 1, 1) if toy else ((800, 1344), 4, 5 if quick else 11)
    types = (None,) if toy else (None, "bfloat16") if quick else (None, "bfloat16", "float16")
    rows = []
    for amp in types:
        for name in CONFIGS[: 1 if toy else None]:
            cfg = load_config(str(step.CONFIG.with_name(name)), ["MODEL.DEVICE", str(device)])
            times, memory = step.measure(cfg, size, batch, amp, rounds)
            row: dict[str, Any] = {"type": amp or "float32", "config": name}
            row |= {f"{name}, ms": 1e3 * value for name, value in times.items()}
            row |= {"over both": step.ratio(times)}
            row |= {f"{name}, MB": value / 1e6 for name, value in memory.items()}
            rows.append(row)
            print(row, flush=True)
    return {**describe(device), f"B = {batch}, {size[0]}x{size[1]} pixels": rows}
