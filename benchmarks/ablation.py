r"""The table of what was tried, from the records of runs: `python benchmarks/ablation.py` writes ABLATION.md.

benchmarks/runs/*.jsonl hold a line a run and heads: `0.2.jsonl` those of 0.2, `pilots.jsonl` those that `pilots.py
--record` adds. A line has its "question" and "answer", or `questions_of` has them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from model_card import table as markdown
from pilots import FEATURES, factorials, flat, results

HERE = Path(__file__).parent
POOLS = "Which audio, equal budget?"
ANSWERS = {  # of pilots that ask which audio, by name without the seed and the first of their data
    ("a-today", "today"): "0.2's pool, not all of it free",
    ("b-today-free", "today-free"): "what of 0.2's pool is free",
    ("c-corpus", "packed"): "the free corpus, an earlier build",
    ("c-corpus", "packed-2"): "the free corpus",
    ("d-corpus+esc50-train", "packed-2"): "the free corpus and ESC-50's training classes",
}
RECIPE = "Other settings than the recipe's, on the free corpus?"  # of the other pilots
TEXT = """# What was tried

Written by `python benchmarks/ablation.py` from the records in [runs](runs), which hold all settings, machines and
commits.

Accuracy in %, 5-way 1-shot, on validation sets alone: invariant / variant / concat features, or one number where a
network has one output; logistic regression unless said otherwise. Where there are several seeds of training: mean ±
standard deviation over them. One seed alone says little: digits vary by up to 7 points from seed to seed, sounds by 2.
`clips` is how many clips a run saw in all. Of each question the first answer is the base; the others differ from it in
what they say.
"""


def main() -> None:
    """Write the table."""
    recorded = results(*sorted((HERE / "runs").glob("*.jsonl")))
    text = "\n".join([TEXT, table(recorded), "", *(f"## {part}\n" for part in factorials(pilots_of(recorded)))])
    (HERE / "ABLATION.md").write_text(text)
    print(HERE / "ABLATION.md", file=sys.stderr)


def pilots_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that `pilots.py` measured."""
    return [row for row in rows if "question" not in row]


def questions_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Questions and answers that a record counts for; of a run of the recipe what it changes."""
    if "question" in row:
        return [(row["question"], row["answer"])]
    name = row["name"].rsplit("-", 1)[0]
    heads = f"heads `{row['options'] or 'of the recipe'}`"
    if answer := ANSWERS.get((name, row["data"][0])):
        return [(POOLS, f"{answer}; {heads}")]
    changed = {key: value for key, value in flat(row["changes"]).items() if key != "seed"}
    settings = ", ".join(f"{key} {json.dumps(value)}" for key, value in changed.items())
    found = [(RECIPE, f"{settings or 'the recipe'}; {heads}")]
    if not settings and not row["options"]:  # the same run as one of `ANSWERS` would be
        found.append((POOLS, f"{ANSWERS['c-corpus', 'packed-2']}; {heads}"))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row an answer, grouped by question."""
    sets = list(dict.fromkeys(name for row in rows for name in row["accuracies"]))
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        for each in questions_of(row):
            groups.setdefault(each, []).append(row)
    order = list(dict.fromkeys(question for question, _ in groups))
    lines, asked = [["question", "answer", "clips", "seeds", *sets]], ""
    for (question, answer), runs in sorted(groups.items(), key=lambda group: order.index(group[0][0])):
        cells = [cell([run["accuracies"][name]["1"] for run in runs]) for name in sets]
        lines.append(["" if question == asked else question, answer, f"{runs[0]['clips']:,}", str(len(runs)), *cells])
        asked = question
    return markdown(lines)


def cell(measured: list[dict[str, dict[str, float]]]) -> str:
    """One set: features of one or more seeds, the better scaling of each."""
    found = np.array([[max(run[f].values()) for f in FEATURES] for run in measured])
    if np.ptp(found, axis=1).max() == 0:
        found = found[:, :1]
    means = [f"{mean:.1f}" for mean in found.mean(axis=0)]
    if len(found) == 1:
        return " / ".join(means)
    spread = found.std(axis=0, ddof=1)
    return " / ".join(f"{mean} ± {deviation:.1f}" for mean, deviation in zip(means, spread, strict=True))


if __name__ == "__main__":
    main()
