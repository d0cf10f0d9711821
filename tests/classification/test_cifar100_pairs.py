"""benchmarks/cifar100_pairs.py at a tiny size: black against white, 8x8 pixels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cifar100_pairs.py"
SMALL = (
    "data.name", "folder", "train.epochs", "6", "train.milestones", "[5]", "train.batch_size", "8",
    "device", "cpu",
)  # fmt: skip


@pytest.fixture
def images(tmp_path):
    g = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, level in (("black", 20), ("white", 200)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = g.integers(level, level + 40, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "images"


def run(images, *options):
    return subprocess.run(
        [sys.executable, SCRIPT, "--pairs", "resnet14>resnet8", "--output", images.parent / "runs",
         *options, *SMALL, "data.root", images],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_it_stops_in_time_and_goes_on(images):
    stopped = run(images, "--methods", "rcka", "--seeds", "1", "--minutes", "0.001")
    assert stopped.returncode == 3, stopped.stderr
    assert "| resnet14>resnet8 | rcka | - | - | 0 of 1 |" in stopped.stdout
    assert "0 of 2 runs finished" in stopped.stdout
    done = run(images, "--methods", "rcka", "--seeds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| resnet14>resnet8 | teacher | 100.00 | 100.00 | 1 of 1 | - |" in done.stdout
    assert "| resnet14>resnet8 | rcka | 100.00 | 100.00 | 1 of 1 | - |" in done.stdout
    summary = images.parent / "runs/resnet14_teaches_resnet8/rcka/seed1/summary.json"
    before = summary.stat().st_mtime_ns
    again = run(images, "--methods", "rcka", "--seeds", "1")
    assert again.returncode == 0 and summary.stat().st_mtime_ns == before


def test_a_failed_run_is_named_with_its_reason(images):
    failed = run(images, "--methods", "none", "--seeds", "1", "--jobs", "2", "train.lr", "-1")
    assert failed.returncode == 1
    assert "teachers/resnet14: classification: train.lr is positive, got -1" in failed.stderr
    assert "none/seed1: " in failed.stderr
