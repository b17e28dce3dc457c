"""The queue of short training runs: what is next, what was measured, and how far a figure can be trusted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import pilots

from mtslvr.training.config import HeadsConfig


@pytest.fixture
def queue(tmp_path):
    found = {f: {"l2": 50.0, "standard": 60.0} for f in pilots.FEATURES}
    accuracies = {"a": {"1": found, "5": found}}
    rows = [{"name": f"mels-64-{seed}", "heads": "means", "accuracies": accuracies} for seed in (1, 2)]
    (tmp_path / "results.jsonl").write_text("".join(f"\n{json.dumps(row)}\n" for row in rows) + '\n{"name": "mels')
    return {"out": str(tmp_path), "sets": ["a=folder:1"], "heads": {"means": "--ridge 0.1", "rows": ""}}


def test_what_is_measured_is_not_done_again(queue):
    assert pilots.missing_heads(queue, {"name": "mels-64-1"}) == {"rows": ""}
    assert pilots.missing_heads(queue, {"name": "mels-64-1", "heads": {"means": ""}}) == {}
    assert set(pilots.missing_heads(queue, {"name": "mels-64-3"})) == {"means", "rows"}


def test_the_table_has_a_row_a_question_and_heads_with_the_spread_over_seeds(queue):
    assert pilots.table(queue).splitlines()[-1] == (
        "| mels-64 | means | 2 | 60.0 / 60.0 | 60.0 / 60.0 | 60.0 / 60.0 | 60.0 | 0.0 |"
    )


def test_heads_are_options_of_the_command_and_else_those_of_the_recipe():
    assert pilots.heads_of("") == HeadsConfig()
    assert pilots.heads_of("--ridge 0.1 --invariant-rows none") == HeadsConfig(ridge=0.1, invariant_rows=None)


def test_halves_are_of_each_class():
    labels = np.repeat(["a", "b", "c"], [10, 20, 30])
    found = list(pilots.halves(labels))
    assert len(found) == pilots.HALVES
    for half in found:
        assert len(set(half)) == len(half) and np.unique(labels[half], return_counts=True)[1].tolist() == [5, 10, 15]
    assert {tuple(sorted(half)) for half in found} != {tuple(sorted(found[0]))}
