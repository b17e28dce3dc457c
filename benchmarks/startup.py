r"""Seconds until a command or an import is there, each in a new process.

    python benchmarks/startup.py --out benchmarks/STARTUP.md

Rows take turns, so that a slower minute of the machine slows all alike; the first round, which fills the disk's caches,
does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mtslvr.run.machine import environment

BARE, TORCH, BOTH = "python -c pass", "import torch", "import torch, mtslvr; mtslvr.embed"


def entry(module: str, *arguments: str) -> str:
    """What the installed command runs."""
    return f"import sys; sys.argv = {['mtslvr', *arguments]!r}; from {module} import main; main()"


ROWS = {
    BARE: "pass",
    "mtslvr-embed --help": entry("mtslvr.cli.embed", "--help"),
    "mtslvr --help": entry("mtslvr.cli.main", "--help"),
    "mtslvr train --help": entry("mtslvr.cli.main", "train", "--help"),
    "import mtslvr": "import mtslvr",
    TORCH: "import torch",
    BOTH: BOTH,
}


def seconds(code: str) -> float:
    """One new process, from its start to its end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of every round of every row."""
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    for turn in range(repeats + 1):
        for name, code in ROWS.items():
            value = seconds(code)
            if turn:
                found[name].append(value)
    return found


def report(found: dict[str, list[float]], env: dict[str, Any]) -> str:
    """Markdown: a row a command, and what mtslvr adds to torch."""
    added = statistics.median(b - a for a, b in zip(found[TORCH], found[BOTH], strict=True))
    lines = [
        "# Start-up",
        "",
        f"Written by `python benchmarks/startup.py`. mtslvr {env['mtslvr']}, torch {env['torch']}, Python "
        f"{env['python']}, {env['cpu']}, {env['cores']} cores, load {env['load']:.1f} before, commit "
        f"{env['git_revision'][:12]}; {len(found[BARE])} rounds.",
        "",
        "| | seconds, median | lowest to highest |",
        "|---|---|---|",
    ]
    for name, values in found.items():
        lines.append(f"| `{name}` | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")
    lines += [
        "",
        f"`mtslvr.embed` adds {1000 * added:.0f} ms to `import torch` (median of the rounds' differences).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file to write; printed either way")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    env = {**environment(), "load": os.getloadavg()[0]}
    found = measure(arguments.repeats)
    text = report(found, env)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
