#!/usr/bin/env python3
"""Train a teacher and several students over several seeds; write a table and a picture.

tools/compare.py configs/quickstart/demo.yaml [--seeds 3] [--jobs 2] [--output DIR]
                 [KEY VALUE ...]

The file says by TASK whether these are detectors or classifiers. Finished runs are kept: called
again, it trains what is missing.
"""

import argparse
import os
import shlex
import signal
import sys
import warnings

warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*pkg_resources.*")

from pcka.comparison import load_comparison, task_of, train_all, write_report  # noqa: E402
from pcka.errors import ConfigError  # noqa: E402


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


def shell_word(text: str) -> str:
    """Quoted for a shell, readably: "('name',)" rather than '('"'"'name...'."""
    readable = "'" in text and not set(text) & set('"$`\\!')
    return f'"{text}"' if readable else shlex.quote(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", help="YAML file that names teacher and students")
    parser.add_argument("--seeds", type=seed_list, default=[1], metavar="N | A,B,C")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--output", default="", help="folder, instead of the file's OUTPUT_DIR")
    parser.add_argument("opts", nargs="*", help="config overrides for every run")
    args = parser.parse_intermixed_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # takes its trainings along
    try:
        comparison = load_comparison(
            args.comparison, task_of, seeds=args.seeds, opts=args.opts, output_dir=args.output
        )
        train_all(comparison, jobs=max(1, args.jobs))
    except (ConfigError, RuntimeError) as error:
        sys.exit(f"compare.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on from here")
    command = " ".join(["tools/compare.py", *map(shell_word, sys.argv[1:])])
    print(write_report(comparison, command))
    print(f"\nIn {comparison.output_dir}: table.md, picture.png, results.json and the runs")
