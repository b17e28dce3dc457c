"""What a build took and what it left out, in Markdown and JSON."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def write_report(records: list[Record], out: Path) -> None:
    """Write REPORT.md and report.json."""
    (out / "report.json").write_text(json.dumps(records, indent=1))
    (out / "REPORT.md").write_text(markdown(records))


def markdown(records: list[Record]) -> str:
    """Tables of hours by kind of sound, by licence and by source, then report sets and what is missing."""
    made = [record for record in records if "clips" in record]
    gone = [record for record in records if "missing" in record]
    kinds, clips, licences, sets = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for record in made:
        for kind, licence, seconds in record["seconds"]:
            kinds[kind] += seconds
            licences[licence] += seconds
        clips.update(record["clips"])
        sets.update(record["report_sets"])
    lines = ["# The corpus", "", "Written by `python -m benchmarks.corpus`.", ""]
    lines += [f"{clips.total():,} clips, {kinds.total() / 3600:.2f} h, from {len(made)} sources.", ""]
    lines += _table("kind of sound | clips | hours", [f"{k} | {clips[k]:,} | {_h(s)}" for k, s in kinds.most_common()])
    lines += _table("licence | hours", [f"{licence} | {_h(seconds)}" for licence, seconds in licences.most_common()])
    rows = []
    for r in made:
        left = "; ".join(f"{count} {reason}" for reason, count in r["left_out"].items())
        terms = ", ".join(sorted({licence for _, licence, _ in r["seconds"]}))
        sounds, count = ", ".join(sorted(r["clips"])), sum(r["clips"].values())
        hours = _h(sum(seconds for *_, seconds in r["seconds"]))
        rows.append(f"{r['name']} | {r['row']['kind']} | {sounds} | {count:,} | {hours} | {terms} | {left}")
    lines += _table("source | origin | sound | clips | hours | licences | files or clips left out", rows)
    by_set: dict[str, list[tuple[str, int]]] = {}
    for name, count in sorted(sets.items()):
        by_set.setdefault(name.split("/")[0], []).append((name.split("/")[1], count))
    lines += ["## Report sets", "", "Held out of the corpus, one folder a class.", ""]
    lines += _table(
        "set | classes | clips",
        [f"{name} | {len(held)} | {sum(n for _, n in held)}" for name, held in by_set.items()],
    )
    lines += ["## Left out by choice", ""]
    lines += [f"- {r['name']}: {r['row']['left_out']}" for r in made if r["row"].get("left_out")] + [""]
    lines += ["## Missing", ""]
    lines += [f"- {record['name']}: {record['missing']}" for record in gone] or ["Nothing."]
    return "\n".join(lines) + "\n"


def _h(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"


def _table(head: str, rows: list[str]) -> list[str]:
    rule = " | ".join("---" for _ in head.split(" | "))
    return [f"| {line} |" for line in (head, rule, *rows)] + [""]
