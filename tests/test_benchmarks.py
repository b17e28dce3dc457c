import itertools
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import mtslvr
from mtslvr.training.data import PackedClips, write

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import ablation  # noqa: E402
import pilots  # noqa: E402
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
    seconds = {"baseline": [4.0, 8.0, 4.0], "torch float32": [2.0, 2.0, 4.0], "torch bfloat16": [2.0] * 3}
    data = {"1": {"seconds": {"32": seconds}, "absent": {}, "compile_seconds": None}}
    found = {verdict.what: verdict for verdict in targets.verdicts({"engines": {"quick": False, "data": data}})}
    float32, bfloat16 = (found[f"torch {dtype}, batch 32, 1 thread"] for dtype in ("float32", "bfloat16"))
    assert (float32.measured, float32.reached, bfloat16.reached) == ("2.00 (1.00 to 4.00)", "yes", "no")
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


def accuracies(best):
    return {"a": {shots: {f: {"l2": 50.0, "standard": best} for f in pilots.FEATURES} for shots in ("1", "5")}}


def test_what_is_measured_is_not_done_again_and_has_a_row_with_the_spread_over_seeds(tmp_path):
    rows = [{"name": f"mels-64-{seed}", "heads": "means", "accuracies": accuracies(60.0)} for seed in (1, 2)]
    (tmp_path / "results.jsonl").write_text("".join(f"\n{json.dumps(row)}\n" for row in rows) + '\n{"name": "mels')
    queue = {"out": str(tmp_path), "heads": {"means": "--ridge 0.1", "rows": ""}}
    assert pilots.missing_heads(queue, {"name": "mels-64-1"}) == {"rows": ""}
    assert set(pilots.missing_heads(queue, {"name": "mels-64-3"})) == {"means", "rows"}
    measured = pilots.results(tmp_path / "results.jsonl", tmp_path / "results.jsonl", tmp_path / "none.jsonl")
    *_, last = pilots.table(measured).splitlines()
    assert last == "| mels-64 | means | 2 | 60.0 / 60.0 | 60.0 / 60.0 | 60.0 / 60.0 | 60.0 | 0.0 |"


def test_a_factorial_tells_what_each_setting_changes_and_with_which_error():
    # 60, and 4 more with two settings that go together, 2 less with the other; 1 more or less by the seed.
    runs, together = [], {"crops": 1, "encoder": {"tasks": 1}}
    for seed, both, one in itertools.product((1, 2), (0, 1), (0, 1)):
        changes = {"seed": seed, **(together if both else {}), **({"steps": 9} if one else {})}
        found = accuracies(60 + 4 * both - 2 * one + (1 if seed == 1 else -1))
        runs.append({"name": f"L4-{both}{one}-{seed}", "heads": "", "changes": changes, "accuracies": found})
    [text] = pilots.factorials(runs)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[4:]]
    error = np.sqrt(8 / 5) * 2 / np.sqrt(8)  # of a residual variance with 8 - 3 degrees of freedom
    found = {name: set(values) for name, *values in rows}
    assert found == {"crops 1, encoder.tasks 1": {f"+4.0 ± {error:.1f}"}, "steps 9": {f"-2.0 ± {error:.1f}"}}
    assert pilots.factorials(runs[:1]) == []


def test_what_was_tried_is_the_table_of_the_records():
    recorded = pilots.results(*sorted((BENCHMARKS / "runs").glob("*.jsonl")))
    assert ablation.table(recorded) in (BENCHMARKS / "ABLATION.md").read_text()
    assert not any("/" in folder for row in recorded for folder in row["data"])


@pytest.mark.slow
def test_packed_clips_come_back_from_parts_of_a_size_cut_and_with_their_names_as_many_as_fit(tmp_path):
    lengths = [16000 * (1 + i % 4) for i in range(120)]
    tones = [np.sin(2 * np.pi * (200 + 20 * i) * np.arange(n) / 16000) for i, n in enumerate(lengths)]
    samples = (8000 * np.concatenate(tones)).astype(np.int16)
    write(tmp_path / "packed", 16000, [([f"{i}.wav" for i in range(120)], lengths, samples)])
    command = [sys.executable, BENCHMARKS / "recode.py"]
    how = ["--seconds", "2", "--kbps", "24", "--part-mib", "0.3"]
    subprocess.run([*command, "make", tmp_path / "packed", tmp_path / "parts", *how], check=True)
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) == 2 and all(part.stat().st_size <= 0.3 * 2**20 for part in parts)
    for part in parts:
        with tarfile.open(part) as tar:
            tar.extractall(tmp_path / "unpacked")
    subprocess.run([*command, "join", tmp_path / "unpacked", tmp_path / "joined"], check=True)
    clips = PackedClips.open(tmp_path / "joined")
    assert 40 < len(clips) < 120 and len(set(clips.names)) == len(clips)
    for name, start, end in zip(clips.names, clips.starts, clips.starts[1:], strict=False):
        expected = tones[int(name.removesuffix(".wav"))][:32000]
        assert np.corrcoef(clips.samples[start:end], expected)[0, 1] > 0.95
