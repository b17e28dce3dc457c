"""The fast tests in fresh environments of several Pythons and torches, and what these take; writes VERSIONS.md.

    python benchmarks/versions.py 3.10:2.4.1 3.12:2.13.0 3.13:2.15.0

Each PYTHON:TORCH needs a `pythonPYTHON` on the path, and on Linux some GB for a while where torch brings CUDA. Rows of
other pairs, which earlier calls wrote, stay. With --sizes no test is run, and only the last column is written.
"""

from __future__ import annotations

import argparse
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
not in the table were not tried. The last column is the size of torch, this package and all that they need, after `pip
install`; `+cpu` is torch's build without CUDA.

| Python | torch | NumPy | fast tests | commit | date | on disk |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Measure each pair, and write its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="PYTHON:TORCH")
    parser.add_argument("--sizes", action="store_true")
    options = parser.parse_args()
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| 3")]
    for pair in options.pairs:
        *found, size = measured(*pair.split(":"), tests=not options.sizes)
        print(*found, size, flush=True)
        commit = run(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
        earlier = next((row for row in rows if row[:2] == found[:2]), None)
        rows = [row for row in rows if row is not earlier]
        rows.append([*earlier[:-1], size] if earlier and options.sizes else [*found, commit, str(date.today()), size])
        PAGE.write_text(TITLE + "".join(f"| {' | '.join(row)} |\n" for row in sorted(rows)), encoding="utf-8")


def measured(python: str, torch: str, tests: bool) -> list[str]:
    """Versions, the last line of pytest or of what failed before it, and the size of what was installed."""
    with tempfile.TemporaryDirectory() as folder:
        run([f"python{python}", "-m", "venv", folder])
        here = f"{folder}/bin/python"
        installed = run([here, "-m", "pip", "install", "-q", "--no-compile", f"torch=={torch}", f"{ROOT}[test]"])
        if installed.returncode:
            return [python, torch, "", f"cannot be installed: {last(installed)}", ""]
        files = [path for path in Path(folder, "lib").rglob("*") if path.is_file()]
        size = f"{sum(path.stat().st_size for path in files) / 1e9:.1f} GB"
        versions = run([here, "-c", ASKED])
        if versions.returncode:
            return [python, torch, "", f"cannot be imported: {last(versions)}", size]
        if not tests:
            return [*versions.stdout.split(), "not run", size]
        tested = run([here, "-m", "pytest", "-p", "no:cacheprovider"])
        if tested.returncode:
            print(tested.stdout[-4000:], file=sys.stderr)
        return [*versions.stdout.split(), tested.stdout.strip().splitlines()[-1], size]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """In the repository; what it says is kept."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def last(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a command printed."""
    return ((done.stdout + done.stderr).strip().splitlines() or ["nothing printed"])[-1]


if __name__ == "__main__":
    main()
