"""The record of a run's surroundings: versions, device, and the state of the source."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision

ENVIRONMENT = "environment.json"  # in a run's folder


def environment(device: torch.device | str) -> dict[str, Any]:
    """Return command, versions, device, threads, git revision and changed files as plain values."""
    device = torch.device(device)
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "git": _git("rev-parse", "HEAD"),
        "git_changes": _git("status", "--porcelain", "--untracked-files=no").splitlines(),
    }


def cpu_name() -> str:
    """Return the model of the processor, or the platform's name for it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    here = os.path.dirname(__file__)
    try:
        found = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
