import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtslvr.workers import Lanes, on_one_thread

SETUP = """
import os, sys, threading, warnings
import numpy as np, torch
import mtslvr

warnings.simplefilter("ignore")
torch.manual_seed(0)
encoder = mtslvr.Encoder(mtslvr.EncoderConfig(window_seconds=0.2)).eval()
wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
"""


def in_python(script, *arguments):
    """What a script prints in a process of its own, where torch has two threads."""
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "PYTHONPATH": root}
    command = [sys.executable, "-c", SETUP + script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_call_has_one_torch_thread_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert Lanes(5).map(lambda _: torch.get_num_threads(), range(6)) == [1] * 6  # on threads of no other test
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert on_one_thread(torch.get_num_threads) == 1


def test_a_call_may_itself_divide_its_work():
    lanes = Lanes(1)
    assert lanes.submit(lambda: lanes.map(lambda x: x + 1, range(3))).result(timeout=60) == [1, 2, 3]


OVERLAPPING = """
folded, rows, counts = encoder.fold(), [], []

def run(function):
    threads = [threading.Thread(target=function) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

before = torch.get_num_threads()
run(lambda: rows.append(mtslvr.embed(wave[:8000], 16000, encoder=folded)))
run(lambda: counts.append(torch.get_num_threads()))
assert all(np.allclose(row, rows[0], rtol=0, atol=1e-5) for row in rows) and len(rows) == 8
print(before, sorted(set(counts)), torch.get_num_threads())
"""


@pytest.mark.slow
def test_embedding_from_many_threads_leaves_later_threads_torchs_number():
    assert in_python(OVERLAPPING) == "2 [2] 2\n"


UNFINISHED = """
results = mtslvr.embed_files([wave] * 80, 16000, encoder=encoder.fold(), batch_size=2)
print(next(results).error)
"""


@pytest.mark.slow
def test_python_ends_where_results_were_not_all_taken():
    assert in_python(UNFINISHED) == "None\n"


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
GONE_ON_WITH = """
results = mtslvr.embed_files([wave[:3200]] * 20, 16000, encoder=encoder, batch_size=2)
next(results)
child = os.fork()
if child == 0:
    try:
        next(results)
    except mtslvr.ConfigError as error:
        assert "call embed_files in the process that reads them" in str(error)
        del results, error
        os._exit(0)
    os._exit(1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(code or len(list(results)) - 19)
"""


@pytest.mark.slow
@needs_fork
def test_results_are_not_read_on_in_a_forked_process():
    in_python(GONE_ON_WITH)


FORKED = """
encoder.save(sys.argv[1])
BEFORE
child = os.fork()
if child == 0:
    row = mtslvr.embed(wave, 16000, encoder=mtslvr.load(sys.argv[1]))
    assert row.shape == (1000,) and np.isfinite(row).all()
    AFTER
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
CALL = "mtslvr.load(sys.argv[1])(torch.from_numpy(np.stack([wave] * 8)))"


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("torch.randn(2000, 2000) @ torch.randn(2000, 2000)", "pass"),
        (CALL, CALL),
        ("", "assert torch.get_num_threads() == 2"),
    ],
)
def test_a_forked_process_loads_and_embeds(tmp_path, before, after):
    in_python(FORKED.replace("BEFORE", before).replace("AFTER", after), tmp_path / "model")
