"""What a comparison found: a table in Markdown, the figures as JSON, and one picture."""

import json
import os
import statistics
from importlib import metadata

from ..environment import cpu_name
from .runs import Comparison
from .task import Task


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
    """The rows of ``table_rows``."""
    columns, *rows = table_rows(comparison.task, results, comparison.baseline)
    lines = ["| " + " | ".join(columns).lstrip() + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def table_rows(
    task: Task, results: dict[str, list[dict]], baseline: str | None = None
) -> list[list[str]]:
    """Mean and sample standard deviation over seeds; differences are paired by seed.

    Args:
        task: of all runs.
        results: of ``collect``.
        baseline: the label that the others are compared with; None: no differences.

    Returns:
        The names of the columns, and a row per label.
    """
    metrics, cost = task.metrics, task.cost
    difference = [] if baseline is None else [f"difference to the {baseline} ({metrics[0]})"]
    rows = [["", *metrics, *difference, "parameters", cost]]
    alone = {entry["seed"]: entry[metrics[0]] for entry in results.get(baseline, [])}
    for label, entries in results.items():
        cells = [_spread([e[m] for e in entries]) for m in metrics]
        if baseline is not None:
            pairs = [e[metrics[0]] - alone[e["seed"]] for e in entries if e["seed"] in alone]
            is_student = label not in ("teacher", baseline)
            cells.append(_spread(pairs, sign="+") if is_student else "")
        cells.append(f"{entries[0]['parameters'] / 1e6:.2f} M")
        cells.append(f"{statistics.mean(e[cost] for e in entries):.0f}")
        rows.append([label, *cells])
    return rows


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
        f"Machine: {os.cpu_count()} cores of {cpu_name()}, torch {metadata.version('torch')}."
    )
