"""The allowed imports: the core needs torch alone, and training needs no experiments."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "projects" / "pcka"


def output_of(code, **options):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, **options
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def imported_by(path):
    """Return the names of modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def test_core_imports_torch_alone():
    for path in (PACKAGE / "core").rglob("*.py"):
        # Triton comes with torch for CUDA, and only a call on a CUDA tensor imports the kernels.
        allowed = {"torch", *sys.stdlib_module_names}
        if path.parent.name == "kernels":
            allowed.add("triton")
        for name in imported_by(path):
            inside = name == "pcka.core" or name.startswith("pcka.core.")
            assert inside or name.split(".")[0] in allowed, f"{path} imports {name}"


@pytest.mark.slow
def test_core_works_without_detectron2():
    code = (
        "import sys; sys.modules['detectron2'] = None; sys.modules['torchvision'] = None\n"
        "sys.modules['triton'] = None\n"
        "import torch, pcka.core\n"
        "print(pcka.core.patch_cka(torch.ones(1, 2, 8, 8), torch.ones(1, 2, 8, 8), patch_size=2,"
        " center=False).item())"
    )
    assert float(output_of(code)) == 1.0


@pytest.mark.slow
def test_classification_works_without_detectron2():
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "import importlib, pkgutil, pcka.classification as c\n"
        "for m in pkgutil.walk_packages(c.__path__, 'pcka.classification.'):\n"
        "    importlib.import_module(m.name)\n"
        "import pcka.deploy.predict, pcka.deploy.export\n"
        "import pcka.deploy.classifications, pcka.deploy.export_classifier\n"
        "assert not any(name.startswith('pcka.detection') for name in sys.modules)"
    )
    output_of(code)


@pytest.mark.slow
def test_analysis_needs_no_training():
    code = (
        "import sys\n"
        "for name in ('detectron2', 'torchvision', 'pcka.classification'):\n"
        "    sys.modules[name] = None\n"
        "import pcka.analysis\n"
        "assert not any(name.startswith('pcka.detection') for name in sys.modules)"
    )
    output_of(code)


# The commands import experiments by name, for requested hooks; nothing else may.
COMMANDS = {PACKAGE / "detection" / "train.py", PACKAGE / "classification" / "train.py"}


def test_nothing_imports_experiments_deploy_tools_or_tests():
    folders = [f for f in PACKAGE.iterdir() if f.is_dir() and f.name != "experiments"]
    files = [p for folder in folders for p in folder.rglob("*.py")] + list(PACKAGE.glob("*.py"))
    assert len(files) > 100
    for path in files:
        found = {".".join(name.split(".")[:2]) for name in imported_by(path)}
        assert not {name.split(".")[0] for name in found} & {"tools", "tests"}, path
        assert path in COMMANDS or "pcka.experiments" not in found, path
        assert "pcka.deploy" not in found, path


@pytest.mark.slow
@pytest.mark.parametrize("module", ["pcka.detection.train", "pcka.classification.train"])
def test_training_imports_only_what_trains(module):
    """Test the commands, because they import the packages."""
    code = (
        f"import sys, {module}\n"
        f"assert {module.replace('train', 'engine')!r} in sys.modules\n"
        "heavy = ('matplotlib', 'sklearn', 'pcka.experiments', 'pcka.analysis', 'pcka.deploy')\n"
        "print(*(name for name in heavy if name in sys.modules))"
    )
    assert output_of(code).split() == []


@pytest.mark.slow
def test_both_trainings_run_without_the_experiments(tiny_yaml, tmp_path):
    package = tmp_path / "lib" / "pcka"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("experiments", "__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
    for name, arguments in {
        "detection": [
            "--config-file",
            tiny_yaml,
            "SOLVER.MAX_ITER",
            "1",
            "OUTPUT_DIR",
            tmp_path / "detector",
        ],
        "classification": [
            "--config-file",
            ROOT / "configs/classification/base/digits.yaml",
            "--device",
            "cpu",
            "student.name",
            "resnet8",
            "data.holdout",
            "0.95",
            "train.epochs",
            "1",
            "train.milestones",
            "[]",
            "output_dir",
            tmp_path / "classifier",
        ],
    }.items():
        command = [sys.executable, "-m", f"pcka.{name}.train", *map(str, arguments)]
        run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert run.returncode == 0, run.stderr[-3000:]
    where = "import pcka, importlib.util; print(pcka.__file__)\n"
    where += "assert importlib.util.find_spec('pcka.experiments') is None"
    assert output_of(where, env=environment, cwd=tmp_path).startswith(str(tmp_path))
    assert (tmp_path / "detector" / "summary.json").is_file()
    assert (tmp_path / "classifier" / "summary.json").is_file()
    # The experiments draw pictures. If pictures are requested without them, one line says so.
    content = yaml.safe_load(Path(tiny_yaml).read_text())
    content["MODEL"]["PCKA"]["PICTURE_PERIOD"] = 1
    (tmp_path / "pictures.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "pcka.detection.train", "--config-file", "pictures.yaml"]
    run = subprocess.run(
        [*command, "OUTPUT_DIR", "with"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert run.returncode == 2 and "PICTURE_PERIOD 1 needs pcka.experiments" in run.stderr
