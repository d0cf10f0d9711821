"""Reading the ``metrics.json`` that detectron2 writes: one JSON object per line."""

import json
import os
from collections.abc import Iterator

import numpy as np

from pcka.experiments.pages.curves import Curve


def read_records(path: str | os.PathLike, last_bytes: int | None = None) -> Iterator[dict]:
    """Return the records of a file without half lines, which a running or killed run leaves.

    Args:
        last_bytes: read only the end of the file.
    """
    with open(path, "rb") as file:
        if last_bytes is not None:
            file.seek(max(0, os.path.getsize(path) - last_bytes))
        for line in file:
            try:
                record = json.loads(line)
                record["iteration"]
            except (ValueError, KeyError, TypeError):
                continue
            yield record


def last_iteration(path: str | os.PathLike) -> int:
    """Return how many iterations a run has done; 0 if there is no file yet."""
    try:
        return max((r["iteration"] + 1 for r in read_records(path, last_bytes=8192)), default=0)
    except OSError:
        return 0


def read_scalars(metrics_json_path: str | os.PathLike, prefix: str) -> dict[str, Curve]:
    """Read curves from the ``metrics.json`` that detectron2 writes, one JSON object per line.

    Args:
        metrics_json_path: the file. Lines that cannot be read are skipped: a killed run leaves
            half of one. Where a resumed run repeats an iteration, the later line counts.
        prefix: start of the names to read, e.g. ``"cka/"``.

    Returns:
        Iterations ``(I,)``, rising, and values ``(I,)`` by full name.
    """
    found: dict[str, dict[int, float]] = {}
    for record in read_records(metrics_json_path):
        for name, value in record.items():
            if name.startswith(prefix) and isinstance(value, int | float):
                found.setdefault(name, {})[record["iteration"]] = float(value)
    return {
        name: (np.array(sorted(points)), np.array([points[i] for i in sorted(points)]))
        for name, points in found.items()
    }
