"""What a training process frees is not mapped anew: seen by the page faults of a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource, sys, torch
from mtslvr.training.memory import keep_freed_memory
torch.set_num_threads(1)
did = keep_freed_memory() if sys.argv[1] == "keep" else None
torch.ones(10, 2**22)  # 160 MiB, and the blocks below fit in what it leaves
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**22), torch.ones(2**23)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps([did, faults]))
"""


def faults_of(how: str, **variables: str) -> tuple[bool | None, int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], env=environment, capture_output=True, text=True, check=True
    )
    did, faults = json.loads(done.stdout)
    return did, faults


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_freed_memory_is_used_again():
    runs = [faults_of("keep") for _ in range(4)]
    assert all(did for did, _ in runs)
    # The best of several processes: where malloc finds a block depends on where the system put the heap.
    kept = min(faults for _, faults in runs)
    mapped = min(faults_of("default")[1] for _ in range(2))
    assert kept < mapped / 4


def test_the_environments_settings_stay():
    did, _ = faults_of("keep", MALLOC_ARENA_MAX="2")
    assert did is False
