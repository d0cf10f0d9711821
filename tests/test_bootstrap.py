"""tools/bootstrap.py, without network: environments here are folders with a scripted `python`."""

import ast
import configparser
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "bootstrap.py"

# Stands in for an environment's Python: answers the probe (`-c`), logs pip's arguments (`-m pip`),
# and fails where they hold a certain word. The final check (`-W ignore -c`) passes.
FAKE_PYTHON = """#!/bin/sh
case "$1" in
    -c) cat "$0.found";;
    -m) echo "$@" >> "$0.log"
        case "$*" in *"$(cat "$0.fails")"*) cat "$0.output"; exit 1;; esac;;
esac
"""


@pytest.fixture
def bootstrap():
    """The script as a module. By path: a wheel in site-packages owns the name `tools`."""
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_env(folder, fails="nothing", output="", **found):
    """An environment holding `found`, whose calls with `fails` among the arguments fail."""
    python = write_program(folder / "bin" / "python", FAKE_PYTHON)
    found = {
        "python": [3, 11],
        "site": str(folder),
        "pip": "24.0",
        "import cv2": False,
        "import detectron2": False,
    } | found
    for name, text in {"found": json.dumps(found), "fails": fails, "output": output}.items():
        Path(f"{python}.{name}").write_text(text)
    return folder


def calls(venv):
    log = venv / "bin" / "python.log"
    return log.read_text().splitlines() if log.exists() else []


def run(venv):
    return subprocess.run(
        [sys.executable, SCRIPT, "--venv", venv], capture_output=True, text=True, timeout=60
    )


def test_old_pythons_can_parse_it():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def test_old_python_without_a_newer_one_is_told_what_to_do(bootstrap, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11\+, this is 3\.8") as stopped:
        bootstrap.find_python((3, 8))
    assert "make env PYTHON=" in str(stopped.value)


def test_old_python_takes_the_first_newer_one_that_runs(bootstrap, monkeypatch, tmp_path):
    write_program(tmp_path / "python3.11", "#!/bin/sh\nexit 127\n")
    works = write_program(tmp_path / "python3.12", "#!/bin/sh\nexit 0\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bootstrap.find_python((3, 8)) == str(works)
    assert bootstrap.find_python((3, 13)) == sys.executable


def test_full_disk_is_noticed_before_the_download(bootstrap, tmp_path):
    with pytest.raises(SystemExit, match=r"needs about 9 GB.* has 1\.5\."):
        bootstrap.check_disk(tmp_path, usage=lambda _: SimpleNamespace(free=1.5e9))
    bootstrap.check_disk(tmp_path, usage=lambda _: SimpleNamespace(free=50e9))


def test_a_current_environment_returns_at_once_and_silently(bootstrap, tmp_path):
    venv = fake_env(tmp_path / "env")
    bootstrap.state(venv, stamp=bootstrap.fingerprint(venv))
    began = time.perf_counter()
    result = run(venv)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert time.perf_counter() - began < 5  # of which most is the start of Python; typically 0.1
    assert calls(venv) == []


def test_stamp_follows_the_files_the_checkout_and_the_python(bootstrap, monkeypatch, tmp_path):
    venv = fake_env(tmp_path / "env")
    seen = {bootstrap.fingerprint(venv)}
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    for name in bootstrap.INPUTS:
        (tmp_path / name).write_text("")
    seen.add(bootstrap.fingerprint(venv))
    for name in bootstrap.INPUTS:
        (tmp_path / name).write_text("changed")
        seen.add(bootstrap.fingerprint(venv))
    assert len(seen) == 2 + len(bootstrap.INPUTS)
    bootstrap.state(venv, stamp=bootstrap.fingerprint(venv))
    (venv / "bin" / "python").unlink()
    assert bootstrap.state(venv)["stamp"] != bootstrap.fingerprint(venv)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("NewConnectionError: Temporary failure in name resolution\n"
         "ERROR: No matching distribution found for torch", "package index could not be reached"),
        ("ERROR: No matching distribution found for torch==2.14.1", "no build that fits"),
        ("ERROR: something new", "something new"),
    ],
)  # fmt: skip
def test_failing_pip_is_explained(tmp_path, output, words):
    venv = fake_env(tmp_path / "env", fails="pip install", output=output, torch="2.7.0")
    result = run(venv)
    assert result.returncode == 1
    assert words in result.stderr and output.splitlines()[-1] in result.stderr
    assert "Traceback" not in result.stderr
    assert run(venv).returncode == 1  # a failure leaves no stamp


def test_an_environment_with_torch_and_detectron2_keeps_both(tmp_path):
    found = {"torch": "2.7.0+cu128", "numpy": "1.26.4", "import detectron2": True}
    venv = fake_env(tmp_path / "env", **found, **{"import cv2": True})
    assert run(venv).returncode == 0
    packages, project = calls(venv)
    assert packages.startswith("-m pip install torch==2.7.0+cu128 numpy==1.26.4 torch>=")
    assert "pytest>=" in packages and "opencv" not in packages and "detectron2" not in packages
    assert project.endswith("--no-deps --no-build-isolation --editable .")
    assert run(venv).returncode == 0
    assert len(calls(venv)) == 2  # the second run had nothing to do


def test_an_environment_without_torch_gets_the_lock_and_detectron2(
    bootstrap, monkeypatch, tmp_path
):
    venv = fake_env(tmp_path / "env")
    monkeypatch.setattr(bootstrap, "check_disk", lambda venv: None)
    bootstrap.update(str(venv), str(venv / "bin" / "python"))
    setuptools, packages, detectron2, _ = calls(venv)
    assert setuptools.endswith("--constraint requirements.lock setuptools")
    assert packages.endswith("--no-build-isolation -r requirements.lock")
    assert f"--target {venv} " in detectron2 and "--upgrade" not in detectron2
    assert detectron2.endswith("--require-hashes -r requirements-detectron2.txt")
    # From here on it is ours: what it holds now is no user's own torch to be kept.
    fake_env(venv, torch="2.14.1", **{"import detectron2": True})
    bootstrap.update(str(venv), str(venv / "bin" / "python"))
    assert calls(venv)[5].endswith("-r requirements.lock") and len(calls(venv)) == 7


def test_half_installed_detectron2_is_replaced(bootstrap, tmp_path):
    venv = fake_env(tmp_path / "env", fails="--target", torch="2.7.0")
    assert run(venv).returncode == 1
    fake_env(venv, torch="2.7.0", **{"import detectron2": True})
    assert run(venv).returncode == 0
    assert calls(venv)[-2].endswith("--upgrade") and "--target" in calls(venv)[-2]


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear to someone")
    result = run(tmp_path)
    assert result.returncode == 1 and "Name another" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_python_that_cannot_make_environments(bootstrap, monkeypatch, tmp_path):
    base = write_program(tmp_path / "python3", "#!/bin/sh\nexit 1\n")
    monkeypatch.setattr(bootstrap, "find_python", lambda: str(base))
    bootstrap.claim(str(tmp_path / "env"))
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        bootstrap.update(str(tmp_path / "env"), str(tmp_path / "env" / "bin" / "python"))


def test_lock_agrees_with_the_ranges_of_setup_cfg():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    text = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    ranges = [Requirement(line) for line in text.split()]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    for requirement in ranges:
        assert requirement.specifier.contains(pins[requirement.name]), requirement
    assert not any("detectron2" in name for name in [*pins, *(r.name for r in ranges)])
