"""Train settings of a config over seeds, each tuned first if asked for, and compare them.

pcka study configs/quickstart/demo.yaml [FILE ...] [--seeds 3] [--jobs 2] [--output DIR]
           [--minutes N] [--skip-failed] [--executor slurm --job partition=gpu] [KEY VALUE ...]

The key TASK of the file says whether these are detectors or classifiers. Finished runs are kept and
stopped runs continue, so the same command called again trains what is missing. It writes table.md,
runs.csv, results.json and figures. From a checkout, tools/study.py is the same command.
"""

import argparse
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path

from pcka.cli import exit_status
from pcka.errors import RunError

from .cluster import EXECUTORS, job_starter, read_parameters
from .report import write_report
from .run import Run
from .scheduler import train_all
from .study import run_study
from .study_file import load_study

PROGRAM = "study.py"
LEFT = 3  # the exit status if --minutes end before all runs are done


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_intermixed_args(arguments)
    # A SIGTERM ends the trainings as well, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    left: list[int] = []
    status = exit_status(
        PROGRAM,
        lambda: left.append(carry_out(args, arguments)),
        stopped="stopped: the same command continues from here",
    )
    return LEFT if status == 0 and left[0] else status


def carry_out(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Train and report; return how many runs are left because the time is over.

    Raises:
        ConfigError: a run cannot start; raised before any run starts.
        RunError: runs failed.
    """
    until = time.monotonic() + 60 * args.minutes
    files, opts = _split(args.words)
    missing: list[Run] = []
    for file in files:
        output = str(Path(args.output) / Path(file).stem) if args.output and files[1:] else ""
        study = load_study(file, opts=opts, seeds=args.seeds, output_dir=output or args.output)
        train: Callable[..., list[Run]] = train_all
        if args.executor:
            start = job_starter(args.executor, study.output_dir, read_parameters(args.job))
            train = partial(train_all, start=start)
        missing += run_study(
            study, jobs=args.jobs, retry_failed=not args.skip_failed, until=until, train=train
        )
        print(write_report(study, _command(arguments)))
        print(f"\nIn {study.output_dir}: table.md, runs.csv, results.json, figures and the runs")
    failed = [run for run in missing if run.failure]
    if failed:
        texts = "\n".join(run.failure_text for run in failed)
        raise RunError(f"{len(missing)} runs have no results, see table.md:\n{texts}")
    if missing and time.monotonic() < until:
        raise RunError(f"{len(missing)} runs have no results, see table.md")
    if missing:
        print(f"{len(missing)} runs are left: the same command continues from here")
    return len(missing)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the study files, which come first, and the KEY VALUE pairs."""
    files = list(takewhile(lambda word: word.endswith((".yaml", ".yml")), words))
    return (files or list(words[:1])), list(words[max(len(files), 1) :])


def seed_list(text: str) -> list[int]:
    """Read ``3`` as the seeds 1, 2, 3, and ``7,9`` as those."""
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcka study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="FILE [KEY VALUE]",
        help="YAML files that name the students, one study each, and overrides for every run",
    )
    parser.add_argument(
        "--seeds",
        type=seed_list,
        default=[],
        metavar="N | A,B,C",
        help="1 to N, or a list such as 4,5, in place of the file's SEEDS",
    )
    parser.add_argument("--jobs", type=_positive, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--output", default="", help="folder, in place of the file's OUTPUT_DIR")
    parser.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        help="stop all runs after this time, with exit status 3",
    )
    parser.add_argument("--skip-failed", action="store_true", help="do not run failed runs again")
    parser.add_argument(
        "--executor", choices=EXECUTORS, help="submit runs as jobs by submitit (pcka[cluster])"
    )
    parser.add_argument(
        "--job",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter of submitit's jobs, such as slurm_partition=gpu or timeout_min=60",
    )
    return parser


def _positive(text: str) -> int:
    return max(1, int(text))


def _command(arguments: Sequence[str]) -> str:
    """Return this command as one would type it."""
    return " ".join(["pcka study", *map(_shell_word, arguments)])


def _shell_word(text: str) -> str:
    """Quote a word for a shell in a readable way: "('name',)", not '('"'"'name...'."""
    readable = "'" in text and not set(text) & set('"$`\\!')
    return f'"{text}"' if readable else shlex.quote(text)


if __name__ == "__main__":
    sys.exit(main())
