"""Versions and machine, for the record of a training run or a measurement."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch


def environment() -> dict[str, str]:
    """Versions, processors and, of a checkout, the git revision."""
    try:
        git = ["git", "rev-parse", "HEAD"]
        found = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True)
        revision = found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = "unknown"
    return {
        **{name: metadata.version(name) for name in ("mtslvr", "numpy")},
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": str(os.cpu_count()),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "git_revision": revision,
    }


def cpu_model() -> str:
    """The CPU's name, as far as the system tells, with family and model: virtual machines shorten names."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", text, re.MULTILINE))
        return f"{found['model name']} (family {found['cpu family']}, model {found['model']})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()
