#!/usr/bin/env python3
"""Make the project's Python environment, or bring it up to date: `make env` calls this file.

An environment made here gets the exact versions of requirements.lock. One of the user's own that
has torch (`--venv /path/to/env`) keeps it, and its detectron2; what is missing is added, within
the ranges of setup.cfg. Killed at any point, the next call goes on from there. Standard library and
old syntax only: a Python too old for the project has to run this, to be told so.
"""

import argparse
import configparser
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INPUTS = ("requirements.lock", "requirements-detectron2.txt", "setup.cfg", "pyproject.toml")
OLDEST, NEWEST, FREE_GB = (3, 11), (3, 14), 9  # 6 stay, 3 are downloads
PROBE = """
import json, sys, sysconfig
found = {"python": sys.version_info[:2], "site": sysconfig.get_path("purelib")}
if sys.version_info >= (3, 8):
    from importlib import metadata, util
    for dist in metadata.distributions():  # the first of a name is the one that gets imported
        found.setdefault(((dist.metadata or {}).get("Name") or "").lower(), dist.version)
    for name in ("detectron2", "cv2"):
        spec = util.find_spec(name)
        found["import " + name] = bool(spec and spec.origin)  # a mere folder has no origin
print(json.dumps(found))
"""
VERIFY = (
    "import torch, torchvision, detectron2.engine, pcka; gpu = torch.cuda.is_available();"
    "print('pcka: ready, torch', torch.__version__, 'on', 'GPU' if gpu else 'CPU')"
)
CAUSES = (  # what pip prints, and what it means
    (
        ("no space left", "errno 28", "disk quota"),
        "The disk is full. Free some, also for TMPDIR; PIP_NO_CACHE_DIR=1 does with 3 GB less.",
    ),
    (
        ("connection", "timed out", "name resolution", "proxy", "sslerror", "certificate"),
        "The package index could not be reached. Check the network; where yours needs them, set a "
        "proxy (HTTPS_PROXY), a mirror (PIP_INDEX_URL) or a certificate (PIP_CERT).",
    ),
    (
        ("no matching distribution", "requires-python", "resolutionimpossible"),
        "The package index has no build that fits this Python (3.11 to 3.14 do), this system or "
        "what is installed; or it did not answer.",
    ),
)


def fingerprint(venv):
    """Hash of what decides the contents: our files, the place of the checkout, the Python."""
    python = pathlib.Path(venv, "bin", "python").resolve()
    parts = [os.fsencode(p) for p in (ROOT, python)] + [(ROOT / n).read_bytes() for n in INPUTS]
    return hashlib.sha256(b"\0".join(parts)).hexdigest() if python.exists() else "no Python"


def state(venv, **changes):
    """What is on record about the environment, after writing `changes` in one atomic step.

    ours: we choose its torch ("new": half-made); wheel: detectron2's ("": half-installed); stamp.
    """
    path, new = pathlib.Path(venv, ".pcka.json"), pathlib.Path(venv, ".pcka.json.new")
    known = dict(json.loads(path.read_text()) if path.exists() else {}, **changes)
    if changes:
        new.write_text(json.dumps(known))
        new.replace(path)
    return known


def find_python(running=sys.version_info[:2]):
    """A Python new enough: the running one, or one on PATH that runs (pyenv's shims may not)."""
    if running >= OLDEST:
        return sys.executable
    for minor in range(OLDEST[1], NEWEST[1] + 1):
        path = shutil.which(f"python3.{minor}")
        if path and subprocess.call([path, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            return path
    sys.exit(
        "pcka: needs Python 3.11+, this is {}.{}; PATH has none.\nInstall one (Debian, "
        "apt: python3.11-venv; or conda), then: make env PYTHON=/path/to/it".format(*running)
    )


def check_disk(venv, usage=shutil.disk_usage):
    free = usage(venv).free / 1e9
    if free < FREE_GB:
        sys.exit(
            f"pcka: a new environment needs about {FREE_GB} GB of disk, as torch brings CUDA; "
            f"{venv} has {free:.1f}.\nFree some, or put it elsewhere: VENV=/other/disk/env"
        )


def probe(python):
    """What the environment holds, without importing it: torch takes seconds. {} if none runs."""
    try:
        return json.loads(subprocess.check_output([python, "-c", PROBE]).decode())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return {}


def pip(python, *arguments):
    """Run pip, show its large downloads, and where it fails stop with the reason in words."""
    # The user's settings (mirror, proxy) hold, except what would install elsewhere or ask unseen.
    settings = dict(os.environ, PIP_USER="0", PIP_NO_INPUT="1", PIP_USE_PEP517="1")
    process = subprocess.Popen(  # close_fds=False: if this is killed, its pip still holds the lock
        [python, "-m", "pip", "install", *arguments],
        cwd=str(ROOT),
        env=settings,
        close_fds=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    lines = []
    for line in process.stdout:
        lines.append("  " + line.strip())
        if ("Downloading" in line and " MB" in line) or "Installing collected" in line:
            print(lines[-1][:120], flush=True)
    if process.wait():
        text = "\n".join(lines).lower()
        reason = next((words for signs, words in CAUSES if any(s in text for s in signs)), "")
        sys.exit("\n".join(["pcka: pip failed:", *lines[-12:], reason]))


def choose_packages(ours, found):
    """Arguments for pip: the lock; or, in a user's environment, our ranges around its torch."""
    if ours:
        return ["--no-build-isolation", "-r", "requirements.lock"]
    config = configparser.ConfigParser(interpolation=None)
    config.read(str(ROOT / "setup.cfg"))
    wanted = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    # opencv-python and opencv-python-headless overwrite each other's files: one is enough.
    wanted = [r for r in wanted.split() if not (r.startswith("opencv") and found["import cv2"])]
    return [f"{n}=={found[n]}" for n in ("torch", "torchvision", "numpy") if n in found] + wanted


def install_detectron2(venv, python, found):
    """Install the wheel, unless there is a detectron2 that is not ours to replace."""
    wheel = (ROOT / "requirements-detectron2.txt").read_text()
    before = state(venv).get("wheel")
    stale = before == "" or (before not in (None, wheel) and "sal-detectron2" in found)
    if found["import detectron2"] and not stale:
        return
    state(venv, wheel="")
    # The wheel is tagged cp310, for a C extension that we do without; --target lets that pass.
    # --no-deps: it asks for numpy<2 and black, and runs without either (`pip check` objects). We
    # accept that, and not a repack, since the untouched file is what the hash vouches for. It also
    # brings a top-level package `tools`: never `import tools`.
    pip(
        python,
        "--target",
        found["site"],
        "--python-version",
        "3.10",
        "--implementation",
        "cp",
        "--abi",
        "none",
        "--platform",
        "any",
        "--only-binary=:all:",
        "--no-deps",
        "--require-hashes",
        "-r",
        "requirements-detectron2.txt",
        *(["--upgrade"] if stale else []),
    )
    state(venv, wheel=wheel)


def claim(venv):
    """See that the folder is there, and wait while another call is at work in it."""
    if not os.path.isdir(venv) or not os.listdir(venv):
        os.makedirs(venv, exist_ok=True)
        state(venv, ours="new")
    handle = os.open(venv, os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"pcka: waiting for another call, or the pip it left, in {venv}", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)


def update(venv, python):
    """Make the environment where there is none yet, fill it, and see that it works."""
    found, ours = probe(python), state(venv).get("ours", False)
    if ours == "new":  # or left half-made, which venv completes
        if subprocess.call([find_python(), "-m", "venv", venv], close_fds=False):
            sys.exit(
                "pcka: this Python could not make an environment: it may lack its venv module "
                f"(Debian:\napt install python3-venv); if not, remove {venv} and try again"
            )
        found = probe(python)
    if "pip" not in found or tuple(found["python"]) < OLDEST:
        sys.exit(
            f"pcka: {venv} is no environment of Python 3.11+ with pip. Name another (VENV=), "
            f"or remove it;\nwhere pip alone is missing: {python} -m ensurepip"
        )
    if "torch" not in found:
        check_disk(venv)
        ours = state(venv, ours=True)["ours"]
    what = (
        "requirements.lock (from nothing: 2 minutes, 3 GB to download, 6 GB of disk)"
        if ours
        else "what is missing beside torch " + found["torch"]
    )
    print(f"pcka: installing {what} in {venv}", flush=True)
    if ours:  # this setuptools builds the packages that have no wheel
        pip(python, "--constraint", "requirements.lock", "setuptools")
    pip(python, *choose_packages(ours, found))
    install_detectron2(venv, python, found)
    pip(python, "--no-deps", "--no-build-isolation", "--editable", ".")
    if subprocess.call([python, "-W", "ignore", "-c", VERIFY]):
        sys.exit(
            f"pcka: all is in {venv}, but does not run (see above). torch, torchvision and "
            "detectron2 have to be\nof builds that go together; VENV=.venv gets such a set"
        )
    state(venv, stamp=fingerprint(venv))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--venv", default=str(ROOT / ".venv"), help="default: .venv")
    venv = os.path.abspath(os.path.expanduser(parser.parse_args().venv))
    try:
        if state(venv).get("stamp") != fingerprint(venv):
            claim(venv)
            update(venv, os.path.join(venv, "bin", "python"))
    except (KeyboardInterrupt, OSError) as error:
        sys.exit(f"pcka: {str(error) or 'interrupted'}; the next call goes on from here")


if __name__ == "__main__":
    main()
