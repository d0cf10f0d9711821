"""The wheel, installed without a checkout: imports, commands, a training of each side."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from pcka.cli import COMMANDS

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the Python of a fresh environment with the wheel, which sees the present packages."""
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy, so that build/ and the metadata do not appear in the checkout.
    source = folder / "source"
    skipped = shutil.ignore_patterns(
        ".git", ".venv", "output", "datasets", "build", "*.egg-info", "__pycache__", ".*_cache"
    )
    shutil.copytree(ROOT, source, symlinks=True, ignore=skipped)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source],
        check=True,
    )
    [wheel] = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    [site] = (folder / "env" / "lib").glob("python*/site-packages")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    # The wheel's own folder comes first; the checkout's link in the present packages is not read.
    (site / "present.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env" / "bin" / "python", wheel


def run(python, *arguments, cwd):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [python, "-W", "ignore", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )


def test_the_wheel_holds_all_parts(installed):
    names = zipfile.ZipFile(installed[1]).namelist()
    for name in (
        "pcka/py.typed",
        "pcka/core/reference.py",
        "pcka/classification/data/digits.py",
        "pcka/detection/modeling/distilled_detector.py",
        "pcka/experiments/study/command.py",
        "pcka/analysis/heatmap.py",
    ):
        assert name in names
    packages = {Path(name).parts[0] for name in names}
    assert len(packages) == 2 and "pcka" in packages  # and its metadata
    assert not any("tests" in Path(name).parts for name in names)


def test_imports_and_commands(installed, tmp_path):
    python, _ = installed
    parts = "core, detection, classification, analysis, experiments"
    modules = ", ".join(f"pcka.{part}" for part in parts.split(", "))
    found = run(python, "-c", f"import {modules}; print(pcka.__file__)", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert str(python.parents[1]) in found.stdout
    for command in COMMANDS:
        shown = run(python, "-m", "pcka", command, "--help", cwd=tmp_path)
        assert shown.returncode == 0 and "usage:" in shown.stdout, shown.stderr
    wrong = run(python, "-m", "pcka", "tran", cwd=tmp_path)
    assert wrong.returncode == 2 and "did you mean 'train'" in wrong.stderr


def test_a_training_of_each_side(installed, tiny_yaml, tmp_path):
    python, _ = installed
    detector = run(
        python,
        "-m",
        "pcka",
        "train",
        "--config-file",
        tiny_yaml,
        "SOLVER.MAX_ITER",
        1,
        "OUTPUT_DIR",
        "detector",
        cwd=tmp_path,
    )
    assert detector.returncode == 0, detector.stderr[-3000:]
    assert (tmp_path / "detector" / "summary.json").is_file()
    config = ROOT / "configs" / "classification" / "base" / "digits.yaml"
    classifier = run(
        python,
        "-m",
        "pcka",
        "classify",
        "--config-file",
        config,
        "--device",
        "cpu",
        "student.name",
        "resnet8",
        "data.holdout",
        "0.95",
        "train.epochs",
        1,
        "train.milestones",
        "[]",
        "output_dir",
        "classifier",
        cwd=tmp_path,
    )
    assert classifier.returncode == 0, classifier.stderr[-3000:]
    assert (tmp_path / "classifier" / "summary.json").is_file()
