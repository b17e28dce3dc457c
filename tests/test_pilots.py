"""The queue of short training runs: what is next, what was measured, and how far a figure can be trusted."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import ablation
import pilots


def accuracies(best):
    return {"a": {shots: {f: {"l2": 50.0, "standard": best} for f in pilots.FEATURES} for shots in ("1", "5")}}


def test_what_is_measured_is_not_done_again_and_has_a_row_with_the_spread_over_seeds(tmp_path):
    rows = [{"name": f"mels-64-{seed}", "heads": "means", "accuracies": accuracies(60.0)} for seed in (1, 2)]
    (tmp_path / "results.jsonl").write_text("".join(f"\n{json.dumps(row)}\n" for row in rows) + '\n{"name": "mels')
    queue = {"out": str(tmp_path), "heads": {"means": "--ridge 0.1", "rows": ""}}
    assert pilots.missing_heads(queue, {"name": "mels-64-1"}) == {"rows": ""}
    assert set(pilots.missing_heads(queue, {"name": "mels-64-3"})) == {"means", "rows"}
    measured = pilots.results(tmp_path / "results.jsonl", tmp_path / "results.jsonl", tmp_path / "none.jsonl")
    assert pilots.table(measured).splitlines()[-1] == (
        "| mels-64 | means | 2 | 60.0 / 60.0 | 60.0 / 60.0 | 60.0 / 60.0 | 60.0 | 0.0 |"
    )


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
    assert rows == [
        ["crops 1, encoder.tasks 1", *[f"+4.0 ± {error:.1f}"] * 4],
        ["steps 9", *[f"-2.0 ± {error:.1f}"] * 4],
    ]
    assert pilots.factorials(runs[:1]) == []


def test_what_was_tried_is_the_table_of_the_records():
    benchmarks = Path(ablation.__file__).parent
    recorded = pilots.results(*sorted((benchmarks / "runs").glob("*.jsonl")))
    assert ablation.table(recorded) in (benchmarks / "ABLATION.md").read_text()
    assert not any("/" in folder for row in recorded for folder in row["data"])
