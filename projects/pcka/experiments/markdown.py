"""What the reports of comparisons and of ablations are made of."""

import os
from collections.abc import Iterable, Sequence
from importlib import metadata

from pcka.environment import cpu_name


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [[cell.replace("|", r"\|") for cell in cells] for cells in (columns, *rows)]
    lines.insert(1, ["---"] * len(columns))
    return "\n".join("| " + " | ".join(cells).lstrip() + " |" for cells in lines)


def provenance(command: str) -> str:
    """The command and the machine."""
    torch = metadata.version("torch")
    machine = f"{os.cpu_count()} cores of {cpu_name()}"
    return f"Command: `{command}`\n\nMachine: {machine}, torch {torch}."
