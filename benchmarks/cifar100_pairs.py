"""Table 1 of the paper on CIFAR-100: ResNet32x4 > ResNet8x4 and WRN-40-2 > WRN-16-2.

    python benchmarks/cifar100_pairs.py --minutes 9 data.root datasets    # again, until all is done
    python benchmarks/cifar100_pairs.py --jobs 4 --compile data.name folder data.root cifar100.zip

Trains each teacher, then each student by each method over the seeds, every run a process of
`python -m classification.train` with the data on the device, bf16 and channels-last; KEY VALUE
pairs go to all of them. `--jobs` run at a time: networks this small leave most of a GPU idle.
After `--minutes` the runs are stopped where they are, and the same command goes on from there.
Prints the table of what is finished. Exit status: 0 all is, 3 some are left, 1 a run failed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "classification"
# Top-1 of table 1, by pair: the teacher, the student alone, KD, RCKA.
PUBLISHED = {
    "resnet32x4>resnet8x4": {"teacher": 79.42, "none": 72.50, "kd": 73.33, "rcka": 76.11},
    "wrn_40_2>wrn_16_2": {"teacher": 75.61, "none": 73.26, "kd": 74.92, "rcka": 76.51},
}
SETTINGS = {
    "train.amp": "bf16",
    "train.channels_last": "true",
    "train.eval_every": "10",
    "train.checkpoint_minutes": "0.5",
}
GRACE = 30  # seconds that a run has to stop


class Run(NamedTuple):
    """One training: where to, by which arguments, and the folder of the teacher it waits for."""

    folder: Path
    arguments: list[str]
    teacher: Path | None = None


def is_finished(folder):
    return (folder / "summary.json").is_file()


def plan(args):
    """The runs by ``(pair, method)``; the method ``teacher`` is its training."""
    base = ["--config-file", str(CONFIGS / "base" / "cifar100.yaml")]
    settings = {**SETTINGS, "train.compile": str(args.compile).lower()}
    settings = [token for setting in settings.items() for token in setting]
    runs = {}
    for pair in args.pairs:
        teacher, student = pair.split(">")
        teacher_folder = args.output / "teachers" / teacher
        own = [*base, *settings, "student.name", teacher, "seed", "1", *args.opts]
        runs[pair, "teacher"] = [Run(teacher_folder, own)]
        for method in args.methods:
            arguments, waits_for = [*base, *settings, "student.name", student], None
            if method != "none":
                weights = teacher_folder / "student.pth"
                arguments[:0] = ["--config-file", str(CONFIGS / "methods" / f"{method}.yaml")]
                arguments += ["teacher.name", teacher, "teacher.weights", str(weights)]
                waits_for = teacher_folder
            folder = args.output / pair.replace(">", "_teaches_") / method
            runs[pair, method] = [
                Run(folder / f"seed{seed}", [*arguments, "seed", seed, *args.opts], waits_for)
                for seed in args.seeds
            ]
    return runs


def start(run):
    """The process of a run; what it prints is added to a log beside its folder."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "classification.train", "--resume"]
    command += [*run.arguments, "output_dir", str(run.folder)]
    with open(f"{run.folder}.log", "a", encoding="utf-8") as log:
        print(*command[1:], file=log, flush=True)
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def work(runs, jobs, minutes):
    """Do what is not finished, ``jobs`` at a time, until the time is over; the runs that failed."""
    until = time.monotonic() + 60 * minutes
    waiting = [run for run in runs if not is_finished(run.folder)]
    running, failed = [], []
    try:
        while time.monotonic() < until:
            ready = [r for r in waiting if r.teacher is None or is_finished(r.teacher)]
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                running.append((run, start(run)))
            if not running:  # all done, or the rest waits for a teacher that failed
                break
            time.sleep(0.1)
            failed += [run for run, process in running if process.poll()]
            running = [(run, process) for run, process in running if process.poll() is None]
    finally:
        for _, process in running:
            process.terminate()  # not SIGINT, which a job in the background ignores
        for _, process in running:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
    return failed


def table(runs):
    """Markdown rows of top-1 after the last epoch, and of the best, over the finished seeds."""
    lines = [
        "| pair | method | top-1, last | best | n | published | images/s | device |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (pair, method), group in runs.items():
        folders = [run.folder for run in group if is_finished(run.folder)]
        summaries = [json.loads((f / "summary.json").read_text()) for f in folders]
        devices = {json.loads((f / "environment.json").read_text())["device"] for f in folders}
        speeds = [summary["images_per_second"] for summary in summaries]
        published = PUBLISHED.get(pair, {}).get(method)
        cells = [
            pair,
            method,
            *(spread([s[kind]["top1"] for s in summaries]) for kind in ("last", "best")),
            f"{len(folders)} of {len(group)}",
            f"{published:.2f}" if published else "-",
            f"{statistics.median(speeds):.0f}" if speeds else "-",
            ", ".join(sorted(devices)) or "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values):
    """Mean and sample standard deviation, as text."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else "-"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=words, default=list(PUBLISHED), help="'a>b,c>d'")
    parser.add_argument("--methods", type=words, default=["none", "kd", "rcka"])
    parser.add_argument("--seeds", type=words, default=["1", "2", "3"])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--compile", action="store_true", help="both networks")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "cifar100_pairs")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of every config")
    args = parser.parse_intermixed_args()
    args.output = args.output.resolve()
    runs = plan(args)
    every = list({run.folder: run for group in runs.values() for run in group}.values())
    failed = work(every, args.jobs, args.minutes)
    print(table(runs))
    for run in failed:
        last = Path(f"{run.folder}.log").read_text(encoding="utf-8").splitlines()[-1]
        print(f"failed: {run.folder}: {last}", file=sys.stderr)
    left = sum(not is_finished(run.folder) for run in every)
    print(f"{len(every) - left} of {len(every)} runs finished")
    return 1 if failed else 3 if left else 0


def words(text):
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
