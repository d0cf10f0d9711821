#!/usr/bin/env python3
"""Train a teacher and several students over several seeds; write a table and a picture.

tools/compare.py configs/quickstart/demo.yaml [--seeds 3] [--jobs 2] [--output DIR]
                 [KEY VALUE ...]

The file says by TASK whether these are detectors or classifiers. Finished runs are kept: called
again, it trains what is missing.
"""

import argparse
import warnings

warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*pkg_resources.*")

from pcka.experiments.command_line import argument_parser, command, stopping  # noqa: E402
from pcka.experiments.comparison_file import load_comparison  # noqa: E402
from pcka.experiments.comparison_report import write_report  # noqa: E402
from pcka.experiments.scheduler import check_runs, train_all  # noqa: E402


def seed_list(text: str) -> list[int]:
    """``3`` is seeds 1, 2, 3; ``7,9`` is those."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a number, or numbers with commas, not {text!r}"
        ) from None
    seeds = list(range(1, seeds[0] + 1)) if "," not in text else seeds
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"one or more different seeds, not {text!r}")
    return seeds


if __name__ == "__main__":
    parser = argument_parser(__doc__, "YAML file that names teacher and students")
    parser.add_argument("--seeds", type=seed_list, default=[1], metavar="N | A,B,C")
    args = parser.parse_intermixed_args()
    with stopping():
        comparison = load_comparison(
            args.file, seeds=args.seeds, opts=args.opts, output_dir=args.output
        )
        check_runs(comparison.runs)
        title = f"{comparison.title}, in {comparison.output_dir}"
        failed = train_all(comparison.runs, title=title, jobs=args.jobs, retry_failed=True)
        if failed:
            raise RuntimeError("\n".join(run.failure_text for run in failed))
        print(write_report(comparison, command()))
        print(f"\nIn {comparison.output_dir}: table.md, picture.png, results.json and the runs")
