"""What a run of the benchmarks is to do, and how a measurement gets a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
BENCHMARKS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Plan:
    """Settings that the sections share.

    Attributes:
        work: folder for made audio.
        quick: tiny sizes, to see that everything works.
        threads: counts to measure with; where one is enough, the largest.
        sets: `--eval` arguments.
        seed: of everything made.
    """

    work: Path
    quick: bool = False
    threads: tuple[int, ...] = (1, 2)
    sets: tuple[str, ...] = ()
    seed: int = 0

    @property
    def most(self) -> int:
        """The largest number of threads."""
        return max(self.threads)

    def pick(self, full: T, quick: T) -> T:
        """The size for this run."""
        return quick if self.quick else full

    def call(self, function: Callable[..., Any], threads: int, **arguments: Any) -> Any:
        """`function(**arguments)` in a fresh process with so many threads.

        Raises:
            RuntimeError: the process failed.
        """
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            name = f"{function.__module__}:{function.__qualname__}"
            command = [sys.executable, "-m", "speed.worker", name, str(threads), str(result)]
            paths = [str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]
            env = {
                **os.environ,
                "OMP_NUM_THREADS": str(threads),
                "MKL_NUM_THREADS": str(threads),
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            }
            done = subprocess.run(command, input=json.dumps(arguments), text=True, env=env, check=False)
            if done.returncode or not result.exists():
                raise RuntimeError(f"{name} failed with exit status {done.returncode}; its message is above")
            return json.loads(result.read_text())
