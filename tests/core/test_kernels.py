"""Kernels without a GPU: run by Triton's interpreter, compiled for a card, and planned."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pcka.core import PatchOptions, kernels

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


def run(*command: str, **variables: str) -> str:
    """Return the output of a Python program that sees this checkout.

    The interpreter is chosen when Triton is imported, so it needs a process of its own.
    """
    path = os.pathsep.join([str(ROOT / "projects"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_they_equal_the_definition(tmp_path):
    """The same checks run on a GPU, at real sizes."""
    options = [] if torch.cuda.is_available() else ["--toy"]
    variables = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    sections = ["--sections", "correctness", "--output", str(tmp_path)]
    run("benchmarks/gpu.py", *sections, *options, **variables)
    found = json.loads((tmp_path / "correctness.json").read_text())
    assert len(found["checks"]) > 50
    assert [check for check in found["checks"] if not check["ok"]] == []


@pytest.mark.slow
def test_they_compile_for_a_card():
    ptxas = Path(pytest.importorskip("triton").__file__).parent / "backends/nvidia/bin/ptxas"
    if not ptxas.exists():
        pytest.skip("this Triton has no ptxas")
    variants = [json.loads(line) for line in run("benchmarks/compile_offline.py").splitlines()]
    assert {v["kernel"] for v in variants} == {"measure", "cut", "gram", "merge", "pull", "adjoint"}
    assert [v for v in variants if v["spilled"] or v["shared"] > 100_000] == []
    assert all(v["wgmma"] for v in variants if v["kernel"] in ("gram", "pull"))


def steps(size, dtype=torch.float32, channels=256, images=2, **options):
    from pcka.core.kernels import level

    shape = images, channels, *size
    strides = channels * size[0] * size[1], size[0] * size[1], size[1], 1
    form = dtype, shape, strides, True
    parts = 2 if dtype == torch.float32 else 1
    settings = parts, level.tiles.CHOSEN[parts], level.WORKSPACE_BYTES, torch.device("cpu")
    return level._steps_of_maps(form, form, PatchOptions(**options), (True, False), settings)


@pytest.mark.parametrize(
    "options", [{}, {"grouping": "batch"}, {"center": False, "inter": True}], ids=str
)
def test_a_level_takes_few_launches_and_a_bounded_workspace(options):
    for size in ((200, 336), (100, 168), (50, 84), (25, 42)):
        for dtype in (torch.float32, torch.bfloat16):
            found = steps(size, dtype, **options)
            backward = 1
            assert len(found.forward) + backward <= 12
            if size != (200, 336):
                assert len(found.forward) + backward <= 8
            assert found.plan.places["end"].start <= 1.1 * found.plan.workspace


def test_maps_of_other_sizes_run_the_same_machine_code():
    variants = set()
    for i in range(40):
        for launch in steps((40 + 7 * i, 64 + 5 * i)).forward:
            variants.add((launch.kernel.function.__name__, *launch.constants.values()))
    # The variants have resizing or not in each direction, rows aligned or not, splits or not.
    assert len(variants) <= 24


def test_what_they_cover():
    """Tensors on a CPU and options without a kernel take the plain form."""
    student, teacher = torch.rand(2, 4, 32, 32), torch.rand(2, 4, 32, 32)
    assert not kernels.covers_maps(student, teacher, PatchOptions(patch_size=8))
    assert not kernels.covers_matrices(student[0], teacher[0], debiased=False)


@pytest.mark.parametrize(
    ("options", "covered"),
    [
        ({}, True),
        ({"grouping": "batch", "resize": "pad"}, True),
        ({"center": False, "inter": 0.3}, True),
        ({"inter": 0.3}, False),
        ({"debiased": True}, False),
        ({"grouping": "position"}, False),
        ({"patch_size": 1}, False),  # 1024 patches of 2 features: over the features is cheaper
    ],
    ids=str,
)
def test_which_options_have_kernels(options, covered, monkeypatch):
    monkeypatch.setattr(kernels, "_devices", lambda: ("cpu",))
    student, teacher = torch.rand(2, 4, 32, 32), torch.rand(2, 4, 32, 32)
    chosen = PatchOptions(**{"patch_size": 8, **options})
    assert kernels.covers_maps(student, teacher, chosen) is covered
    assert not kernels.covers_maps(student.double(), teacher, chosen)
