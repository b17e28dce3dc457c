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

from speed import candidates, report, targets, timing  # noqa: E402
from speed.baseline import Baseline  # noqa: E402
from speed.sounds import clips  # noqa: E402


def record(data):
    environment = {"git_revision": "0123456789abcdef", "torch": "9.9", "cpu": "a processor"}
    common = {"quick": False, "seed": 0, "load": 0.1, "seconds": 1.0, "date": "2000-01-01T00:00:00+00:00"}
    return {**common, "environment": environment, "data": data}


def engines(**seconds):
    named = {name.replace("_", " "): values for name, values in seconds.items()}
    return {
        "1": {"seconds": {"32": named}, "absent": {"torch bfloat16": "no such arithmetic"}, "compile_seconds": None}
    }


def found_by_name(records):
    return {verdict.what: verdict for verdict in targets.verdicts(records)}


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


def test_candidates_take_turns_and_warm_up_does_not_count():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = timing.alternate(calls, 2, warm_up=1)
    assert "".join(order) == "baabba"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_verdict_is_that_of_the_median_of_the_ratios_of_the_same_round():
    records = {
        "engines": record(engines(baseline=[4.0, 8.0, 4.0], torch_float32=[2.0, 4.0, 1.0], torch_bfloat16=[2.0] * 3))
    }
    found = found_by_name(records)
    assert found["torch float32, batch 32, 1 thread"].measured == "2.00 (2.00 to 4.00)"
    assert found["torch float32, batch 32, 1 thread"].reached == "yes"
    assert found["torch bfloat16, batch 32, 1 thread"].reached == "no"


def test_the_ideal_of_a_folder_is_its_summed_cost_over_the_cores():
    # Windows: 1 + 2 of 5 s. Cost: 2 s of decoding + 3 x 2 s of encoding, on two cores 4 s.
    data = {
        "threads": 2,
        "lengths": [4.0, 6.0],
        "costs": {"decode": {"wav": 2.0}, "encode_clip": {"torch float32": 2.0}},
        "runs": {"engines": {"torch float32": {"runs": {"wav": [{"seconds": 5.0}]}}}, "absent": {}},
    }
    verdict = found_by_name({"folder": record(data)})["whole folder, wav, torch float32"]
    assert verdict.measured == "80.00 (80.00 to 80.00)"
    assert verdict.reached == "yes"


def test_results_tell_what_is_missing_and_why():
    text = report.render({
        "engines": record(engines(baseline=[2.0], **{"baseline, kernels summed": [1.5]}, torch_float32=[1.0])),
        "gpu": record({"absent": "no GPU at hand"}),
        "decode": {**record(None), "error": "OSError: full"},
    })  # fmt: skip
    assert "| torch float32 | 32.0 (32.0 to 32.0) | 2.00 (2.00 to 2.00) | 1.50 (1.50 to 1.50) |" in text
    assert "torch bfloat16: not measured (no such arithmetic)." in text
    assert "Not measured: no GPU at hand." in text
    assert "Not measured: it failed (OSError: full)." in text
    assert "## Parts\n\nNot measured." in text
    assert "Commit 0123456789ab, 2000-01-01" in text


def test_nothing_measured_reaches_no_target():
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
