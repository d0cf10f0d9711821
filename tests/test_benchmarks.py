"""The benchmarks can import everything they need; tests do not check their figures."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_it_imports(path, monkeypatch):
    # The folder is last on the path, because benchmarks/pcka.py must not hide the package.
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS.parent), str(BENCHMARKS)])
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__doc__


@pytest.mark.slow
def test_all_that_a_gpu_has_to_show_runs_at_toy_sizes(tmp_path):
    root = BENCHMARKS.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "projects"), str(root)])}
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--toy", "--output", str(tmp_path)]
    command += ["--sections", "pcka", "rcka", "detection", "images_per_second", "autotune"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    summary = (tmp_path / "summary.md").read_text()
    assert "failed:" not in summary.replace("failed: 0 of", "")
    lines = "| plain autograd |", "FeatureCKA", "over both", "resnet20 > resnet8", "best with 2"
    assert [line for line in lines if line not in summary] == []
