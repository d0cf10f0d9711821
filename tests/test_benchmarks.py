"""The benchmarks find what they import; their figures are not a matter of tests."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_it_imports(path, monkeypatch):
    # Last in line: benchmarks/pcka.py must not hide the package.
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS.parent), str(BENCHMARKS)])
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__doc__
