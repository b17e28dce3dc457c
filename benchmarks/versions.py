"""The fast tests in fresh environments of several Pythons and torches; writes benchmarks/VERSIONS.md.

    python benchmarks/versions.py 3.10:2.4.1 3.12:2.13.0 3.13:2.15.0

Each PYTHON:TORCH needs a `pythonPYTHON` on the path, and on Linux some GB for a while where torch brings CUDA. Rows of
other pairs, which earlier calls wrote, stay.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "benchmarks" / "VERSIONS.md"
ASKED = "import numpy, platform, torch; print(platform.python_version(), torch.__version__, numpy.__version__)"
TITLE = f"""# Pythons and torches that were tried

Written by `python benchmarks/versions.py`, on {platform.system()}, {platform.machine()}, without a GPU. Pairs that are
not in the table were not tried.

| Python | torch | NumPy | fast tests | commit | date |
|---|---|---|---|---|---|
"""


def main() -> None:
    """Measure each pair, and write its row."""
    rows = set()
    if PAGE.exists():
        rows = {line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| 3")}
    for pair in sys.argv[1:]:
        found = measured(*pair.split(":"))
        commit = run(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
        print(*found, flush=True)
        rows = {row for row in rows if not row.startswith(f"| {found[0]} | {found[1]} |")}
        rows.add(f"| {' | '.join([*found, commit, str(date.today())])} |")
        PAGE.write_text(TITLE + "\n".join(sorted(rows)) + "\n", encoding="utf-8")


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
        tested = run([here, "-m", "pytest", "-p", "no:cacheprovider"])
        if tested.returncode:
            print(tested.stdout[-4000:], file=sys.stderr)
        return [*versions.stdout.split(), tested.stdout.strip().splitlines()[-1]]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """In the repository; what it says is kept."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def last(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a command printed."""
    return ((done.stdout + done.stderr).strip().splitlines() or ["nothing printed"])[-1]


if __name__ == "__main__":
    main()
