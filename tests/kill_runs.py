"""Kill runs by SIGKILL at random moments, resume them, and compare the end bit by bit.

    PYTHONPATH=projects:. python tests/kill_runs.py classification|detection FOLDER [KILLS] [SEED]

This is a slow check for releases, with 75 kills or more. ``test_resume.py`` and
``test_contracts.py`` kill at chosen places. The exit status is 1 if a resumed run ended in other
weights than a run that was never killed.
"""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

TESTS = Path(__file__).parent
COMMANDS = {
    "classification": [
        str(TESTS / "classifier_runs.py"),
        "--config-file",
        str(TESTS.parent / "configs/classification/base/digits.yaml"),
        "--device",
        "cpu",
        "student.name",
        "tiny_dropout",
        "data.holdout",
        "0.9",
        "train.epochs",
        "12",
        "train.milestones",
        "[8]",
        "train.batch_size",
        "32",
        "train.ema_decay",
        "0.9",
        "train.checkpoint_minutes",
        "0.000001",
        "output_dir",
    ],
    "detection": [
        str(TESTS.parent / "tools/train_net.py"),
        "--config-file",
        "{folder}/tiny.yaml",
        "SOLVER.MAX_ITER",
        "30",
        "SOLVER.CHECKPOINT_PERIOD",
        "2",
        "OUTPUT_DIR",
    ],
}
WEIGHTS = {"classification": "student.pth", "detection": "model_final.pth"}


def main(side: str, folder: str, kills: str = "75", seed: str = "0") -> int:
    """Carry out the kills; return the exit status."""
    root, chance = Path(folder), random.Random(int(seed))
    command = [sys.executable, *(word.format(folder=root) for word in COMMANDS[side])]
    root.mkdir(parents=True, exist_ok=True)
    if side == "detection":
        from detector_fixtures import write_coco, write_tiny

        write_coco(root / "coco")
        write_tiny(root, root / "coco")
    start = time.monotonic()
    work(command, root / "whole").wait()
    seconds = time.monotonic() - start
    expected = state(root / "whole" / WEIGHTS[side])
    done = wrong = runs = 0
    while done < int(kills):
        runs += 1
        run = root / f"run{runs}"
        shutil.rmtree(run, ignore_errors=True)
        here = 0
        for _ in range(chance.choice([1, 1, 3])):
            process = work(command, run, *(["--resume"] if run.exists() else []))
            try:
                # Most of the time passes before the first step, so late moments are favoured.
                process.wait(seconds * chance.uniform(0.3, 1.0))
            except subprocess.TimeoutExpired:
                process.kill()
                here += 1
            process.wait()
        done += here
        status = work(command, run, "--resume").wait()
        same = status == 0 and equal(state(run / WEIGHTS[side]), expected)
        wrong += not same
        print(
            f"run {runs}, kills {done} (+{here}): {'equal' if same else f'WRONG, {status}'}",
            flush=True,
        )
    print(f"{side}: {done} kills in {runs} runs, {wrong} ended in other weights")
    return int(wrong > 0)


def work(command: list[str], run: Path, *extra: str) -> subprocess.Popen:
    with open(run.with_suffix(".log"), "a") as log:
        # A flag goes before the pairs of keys and values.
        return subprocess.Popen(
            [*command[:2], *extra, *command[2:], str(run)], stdout=log, stderr=subprocess.STDOUT
        )


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
