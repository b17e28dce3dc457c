import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mtslvr

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from speed import candidates, targets  # noqa: E402
from speed.baseline import Baseline  # noqa: E402
from speed.sounds import clips  # noqa: E402


@pytest.mark.slow
def test_what_is_timed_are_the_embeddings_of_the_encoder():
    waveforms, encoder = clips(2, seconds=1.0), mtslvr.load(device="cpu")
    unfolded = mtslvr.load(device="cpu", fold=False)
    timed = [candidates.embedder(encoder), candidates.undivided(), candidates.compiled(backend="eager")]
    timed += [Baseline(unfolded, apart=apart) for apart in (False, True)]
    with torch.inference_mode():
        wanted = encoder.embedding(waveforms, "concat")
        for embed in timed:
            assert (embed(waveforms) - wanted).norm() <= 1e-4 * wanted.norm()


def test_a_verdict_is_that_of_the_median_of_the_ratios_of_the_same_round():
    seconds = {"baseline": [4.0, 8.0, 4.0], "torch float32": [2.0, 4.0, 1.0], "torch bfloat16": [2.0] * 3}
    data = {"1": {"seconds": {"32": seconds}, "absent": {}, "compile_seconds": None}}
    verdicts = targets.verdicts({"engines": {"quick": False, "data": data}})
    found = {verdict.what: verdict for verdict in verdicts}
    assert found["torch float32, batch 32, 1 thread"].measured == "2.00 (2.00 to 4.00)"
    assert found["torch float32, batch 32, 1 thread"].reached == "yes"
    assert found["torch bfloat16, batch 32, 1 thread"].reached == "no"
    assert {verdict.reached for verdict in targets.verdicts({})} == {"not measured"}


@pytest.mark.slow
def test_a_quick_run_measures_once_and_writes_results(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--quick", "--only", "engines", "--threads", "1"]
    command += ["--work", str(tmp_path)]
    subprocess.run(command, env=env, check=True, capture_output=True)
    first = (tmp_path / "engines.json").read_text()
    assert set(json.loads(first)["data"]["1"]["seconds"]["2"]) >= {"baseline", "torch float32"}
    assert "| baseline |" in (tmp_path / "RESULTS.md").read_text()
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert (tmp_path / "engines.json").read_text() == first
