"""What the reports of comparisons and of ablations are made of."""

import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [[cell.replace("|", r"\|") for cell in cells] for cells in (columns, *rows)]
    lines.insert(1, ["---"] * len(columns))
    return "\n".join("| " + " | ".join(cells).lstrip() + " |" for cells in lines)


def provenance(command: str) -> str:
    """The command and the machine."""
    torch = metadata.version("torch")
    return f"Command: `{command}`\n\nMachine: {_cpu()}, torch {torch}."


def _cpu() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{os.cpu_count()} cores of {name}"
