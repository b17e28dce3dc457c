"""The fast tests in fresh environments of several Pythons and torches; writes benchmarks/VERSIONS.md.

    python benchmarks/versions.py 3.10:2.4.1 3.12:2.13.0 3.13:2.15.0

Each PYTHON:TORCH needs a `pythonPYTHON` on the path, and on Linux some GB for a while where torch brings CUDA.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from model_card import table

ROOT = Path(__file__).resolve().parent.parent
ASKED = "import numpy, platform, torch; print(platform.python_version(), torch.__version__, numpy.__version__)"


def main() -> None:
    """Measure each pair, and write the table."""
    rows = [["Python", "torch", "NumPy", "fast tests"]]
    for pair in sys.argv[1:]:
        rows.append(measured(*pair.split(":")))
        print(*rows[-1], flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    where = f"{platform.system()}, {platform.machine()}, commit {commit.strip()}, {date.today()}"
    title = "# Pythons and torches that were tried\n\nWritten by `python benchmarks/versions.py`"
    (ROOT / "benchmarks" / "VERSIONS.md").write_text(f"{title} on {where}.\n\n{table(rows)}\n", encoding="utf-8")


def measured(python: str, torch: str) -> list[str]:
    """Versions, and the last line of pytest or of what failed before it."""
    with tempfile.TemporaryDirectory() as folder:
        run([f"python{python}", "-m", "venv", folder])
        here = f"{folder}/bin/python"
        installed = run([here, "-m", "pip", "install", "-q", f"torch=={torch}", f"{ROOT}[test]"])
        if installed.returncode:
            return [python, torch, "", f"cannot be installed: {last(installed)}"]
        versions = run([here, "-c", ASKED])
        if versions.returncode:
            return [python, torch, "", f"cannot be imported: {last(versions)}"]
        return [*versions.stdout.split(), last(run([here, "-m", "pytest", "-p", "no:cacheprovider"]))]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """In the repository; what it says is kept."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def last(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a command printed."""
    return ((done.stdout + done.stderr).strip().splitlines() or ["nothing printed"])[-1]


if __name__ == "__main__":
    main()
