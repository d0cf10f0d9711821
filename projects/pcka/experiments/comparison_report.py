"""What a comparison found: a table in Markdown, the figures as JSON, and one picture."""

import json
import statistics

from .comparison_file import Comparison
from .estimates import estimate, paired_differences
from .markdown import provenance, table
from .task import Task


def write_report(comparison: Comparison, command: str) -> str:
    """Write ``table.md``, ``results.json`` and ``picture.png``; return the table."""
    results = collect(comparison)
    rows = markdown_table(comparison, results)
    text = f"# {comparison.title}\n\n{rows}\n\n{_notes(comparison)}\n\n{provenance(command)}\n"
    output = comparison.output_dir
    (output / "table.md").write_text(text)
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    if comparison.picture:
        comparison.task.draw_picture(comparison).savefig(output / "picture.png")
    return rows


def collect(comparison: Comparison) -> dict[str, list[dict]]:
    """Per label one entry per seed: the seed and ``Task.results``."""
    teacher = {"teacher": [comparison.teacher]} if comparison.teacher else {}
    return {
        label: [{"seed": run.seed, **run.results} for run in runs]
        for label, runs in {**teacher, **comparison.students}.items()
    }


def markdown_table(comparison: Comparison, results: dict[str, list[dict]]) -> str:
    """The rows of :func:`table_rows`."""
    columns, *rows = table_rows(comparison.task, results, comparison.baseline)
    return table(columns, rows)


def table_rows(
    task: Task, results: dict[str, list[dict]], baseline: str | None = None
) -> list[list[str]]:
    """Mean and sample standard deviation over seeds; differences are paired by seed.

    Args:
        task: of all runs.
        results: of :func:`collect`.
        baseline: the label that the others are compared with; None: no differences.

    Returns:
        The names of the columns, and a row per label.
    """
    metrics, cost = task.metrics, task.cost
    first = {
        label: {entry["seed"]: entry[metrics[0]] for entry in entries}
        for label, entries in results.items()
    }
    difference = [] if baseline is None else [f"difference to the {baseline} ({metrics[0]})"]
    rows = [["", *metrics, *difference, "parameters", cost]]
    for label, entries in results.items():
        cells = [estimate(e[m] for e in entries).spread(".1f") for m in metrics]
        if baseline is not None:
            pairs = paired_differences(first[label], first[baseline])
            is_student = label not in ("teacher", baseline)
            cells.append(estimate(pairs.values()).spread("+.1f") if is_student else "")
        cells.append(f"{entries[0]['parameters'] / 1e6:.2f} M")
        cells.append(f"{statistics.mean(e[cost] for e in entries):.0f}")
        rows.append([label, *cells])
    return rows


def _notes(comparison: Comparison) -> str:
    runs = comparison.students[comparison.baseline]
    seeds = ", ".join(str(run.seed) for run in runs)
    notes = [
        f"Mean ± sample standard deviation over seeds {seeds} (n = {len(runs)}); differences are "
        "paired by seed."
        if len(runs) > 1
        else f"Seed {seeds}.",
        "The teacher is one run (seed 0)." if comparison.teacher else "",
        comparison.task.note(runs[0].config),
    ]
    return " ".join(filter(None, notes))
