"""All that has to be measured on a GPU, in one command of at most eight minutes.

    PYTHONPATH=projects:. python benchmarks/gpu.py --output output/gpu
    PYTHONPATH=projects:. python benchmarks/gpu.py --sections pcka rcka --quick
    PYTHONPATH=projects:. python benchmarks/gpu.py --toy        # on a CPU, at toy sizes: a test

Each section runs in a process of its own that is ended at its time limit, and writes ``NAME.json``
and ``NAME.md`` into the output folder; ``summary.md`` holds them all.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Seconds that a section may take.
LIMITS = {
    "correctness": 150,
    "pcka": 90,
    "rcka": 40,
    "detection": 120,
    "images_per_second": 180,
    "autotune": 120,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("output/gpu"))
    parser.add_argument("--sections", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--toy", action="store_true", help="toy sizes, on a CPU too")
    parser.add_argument("--run", choices=LIMITS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        measure(args.run, args)
        return 0
    args.output.mkdir(parents=True, exist_ok=True)
    pages, failed = [], False
    for name in args.sections:
        command = [sys.executable, __file__, "--run", name, "--output", str(args.output)]
        command += ["--quick"] * args.quick + ["--toy"] * args.toy
        try:
            status = subprocess.run(command, timeout=LIMITS[name]).returncode
        except subprocess.TimeoutExpired:
            status = f"no result within {LIMITS[name]} seconds"
        page = args.output / f"{name}.md"
        if status:
            failed = True
            page.write_text(f"## {name}\n\nfailed: {status}\n")
        pages.append(page.read_text())
    (args.output / "summary.md").write_text("\n".join(pages))
    return int(failed)


def measure(name: str, args: argparse.Namespace) -> None:
    """Run one section, and write its results."""
    # `import pcka` means the package, not the benchmark of that name beside this file.
    here = Path(__file__).resolve().parent
    sys.path[:1] = [str(here.parent)]
    sys.path.append(str(here))
    section = importlib.import_module(f"benchmarks.gpu_sections.{name}")
    start = time.perf_counter()
    result = section.measure(args.quick, args.toy)
    result["seconds"] = round(time.perf_counter() - start, 1)
    (args.output / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(name, section.__doc__.split("\n")[0], result)
    (args.output / f"{name}.md").write_text(text)
    print(text, flush=True)


def markdown(name: str, title: str, result: dict[str, Any]) -> str:
    """Return the results as Markdown: lists of rows as tables, all else as lines."""
    lines = [f"## {name}", "", title, ""]
    for key, value in result.items():
        if not isinstance(value, list):
            lines += [f"- {key}: {value}"]
            continue
        columns = list(dict.fromkeys(column for row in value for column in row))
        lines += ["", f"### {key}", "", "| " + " | ".join(columns) + " |"]
        lines += ["|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_text(row.get(c, "")) for c in columns) + " |" for row in value]
        lines += [""]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
