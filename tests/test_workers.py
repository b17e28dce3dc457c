"""Threads of the process that compute with torch: what they leave of torch's own, and of a process that forks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtslvr.workers import on_one_thread, workers


def test_each_call_has_one_torch_thread_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(workers(5).map(lambda _: torch.get_num_threads(), range(6))) == [1] * 6  # of no other test
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert on_one_thread(torch.get_num_threads) == 1


SETUP = """
import os, sys, threading, warnings
import numpy as np, torch
import mtslvr

warnings.simplefilter("ignore")
torch.manual_seed(0)
encoder = mtslvr.Encoder(mtslvr.EncoderConfig(window_seconds=0.2)).eval()
wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32)

def in_child(function):
    child = os.fork()
    if child == 0:
        function()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def loads_and_embeds():
    row = mtslvr.embed(wave, 16000, encoder=mtslvr.load(sys.argv[1]))
    assert row.shape == (1000,) and np.isfinite(row).all()
"""
SCRIPTS = {
    "embedding from many threads leaves later threads torch's number": """
folded, rows, counts = encoder.fold(), [], []

def run(function):
    threads = [threading.Thread(target=function) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

assert torch.get_num_threads() == 2
run(lambda: rows.append(mtslvr.embed(wave[:8000], 16000, encoder=folded)))
run(lambda: counts.append(torch.get_num_threads()))
assert all(np.allclose(row, rows[0], rtol=0, atol=1e-5) for row in rows) and len(rows) == 8
assert [*counts, torch.get_num_threads()] == [2] * 9
""",
    "python ends where results were not all taken": """
next(mtslvr.embed_files([wave] * 80, 16000, encoder=encoder.fold(), batch_size=2))
kept = mtslvr.embed_files([wave] * 80, 16000, encoder=encoder.fold(), batch_size=2)
next(kept)
""",
    "results are not read on in a forked process, and are in this one": """
results = mtslvr.embed_files([wave[:3200]] * 20, 16000, encoder=encoder, batch_size=2)
next(results)

def read_on():
    global results
    try:
        next(results)
        os._exit(1)
    except mtslvr.ConfigError as error:
        assert "call embed_files in the process that reads them" in str(error)
    del results

in_child(read_on)
assert len(list(results)) == 19
""",
    "a forked process embeds after torch was used": """
encoder.save(sys.argv[1])
torch.randn(2000, 2000) @ torch.randn(2000, 2000)
in_child(loads_and_embeds)
""",
    "a forked process embeds after an encoder was called, and calls one": """
encoder.save(sys.argv[1])
call = lambda: mtslvr.load(sys.argv[1])(torch.from_numpy(np.stack([wave] * 8)))
call()
in_child(lambda: (loads_and_embeds(), call()))
""",
    "a forked process has torch's number of threads where nothing was computed before": """
encoder.save(sys.argv[1])
in_child(lambda: (loads_and_embeds(), os._exit(torch.get_num_threads() != 2)))
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_in_a_process_of_its_own(tmp_path, name):
    if "fork" in name and not hasattr(os, "fork"):
        pytest.skip("no fork")
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "PYTHONPATH": root}
    command = [sys.executable, "-c", SETUP + SCRIPTS[name], tmp_path / "model"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
