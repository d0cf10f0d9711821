"""What a comparison found: a table in Markdown, the figures as JSON, and one picture."""

import json
import os
import platform
import statistics
from importlib import metadata
from pathlib import Path

from .runs import Comparison


def write_report(comparison: Comparison, command: str) -> str:
    """Write ``table.md``, ``results.json`` and ``picture.png``; return the table."""
    results = collect(comparison)
    table = markdown_table(comparison, results)
    text = f"# {comparison.title}\n\n{table}\n\n{_provenance(comparison, command)}\n"
    output = comparison.output_dir
    (output / "table.md").write_text(text)
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    if comparison.picture:
        comparison.task.draw_picture(comparison).savefig(output / "picture.png")
    return table


def collect(comparison: Comparison) -> dict[str, list[dict]]:
    """Per label one entry per seed: the seed and ``Task.results``."""
    rows = {"teacher": [comparison.teacher], **comparison.students}
    return {
        label: [{"seed": run.seed, **run.results} for run in runs] for label, runs in rows.items()
    }


def markdown_table(comparison: Comparison, results: dict[str, list[dict]]) -> str:
    """Mean and sample standard deviation over seeds; differences are paired by seed."""
    metrics, cost = comparison.task.metrics, comparison.task.cost
    difference = f"difference to the {comparison.baseline} ({metrics[0]})"
    columns = ["", *metrics, difference, "parameters", cost]
    lines = ["| " + " | ".join(columns).lstrip() + " |", "|---" * len(columns) + "|"]
    alone = {entry["seed"]: entry[metrics[0]] for entry in results[comparison.baseline]}
    for label, entries in results.items():
        cells = [_spread([e[m] for e in entries]) for m in metrics]
        pairs = [e[metrics[0]] - alone[e["seed"]] for e in entries if e["seed"] in alone]
        is_student = label not in ("teacher", comparison.baseline)
        cells.append(_spread(pairs, sign="+") if is_student else "")
        cells.append(f"{entries[0]['parameters'] / 1e6:.2f} M")
        cells.append(f"{statistics.mean(e[cost] for e in entries):.0f}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float], sign: str = "") -> str:
    mean = f"{statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _provenance(comparison: Comparison, command: str) -> str:
    seeds = [run.seed for run in comparison.students[comparison.baseline]]
    over = (
        f"Mean ± sample standard deviation over seeds {', '.join(map(str, seeds))} "
        f"(n = {len(seeds)})"
    )
    several = f"{over}; differences are paired by seed." if len(seeds) > 1 else f"Seed {seeds[0]}."
    return (
        f"{several} The teacher is one run (seed 0). "
        f"{comparison.task.note(comparison.teacher.config)}\n\nCommand: `{command}`\n\n"
        f"Machine: {_cpu()}, torch {metadata.version('torch')}."
    )


def _cpu() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{os.cpu_count()} cores of {name}"
