r"""Measure speed and memory, and write benchmarks/RESULTS.md.

    python benchmarks/run.py [--only engines,decode] [--eval esc50-val=FOLDER] [--quick]

Each section leaves its measurements in a JSON file of the work folder, and is not measured again while that is there
(--again does); RESULTS.md is written from these files. About 25 minutes on two idle cores; audio is made up.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from model_card import EvalSet, write
from speed.plan import BENCHMARKS, Plan
from speed.report import SECTIONS, facts, render

WORK = BENCHMARKS.parent / "runs" / "benchmarks"


def section_list(text: str) -> list[str]:
    """Names of sections, in their order."""
    names = text.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: unknown section; use some of {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in names]


def thread_list(text: str) -> tuple[int, ...]:
    """Numbers of threads, such as 1,2."""
    try:
        counts = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        counts = ()
    if not counts or counts[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers above 0, such as 1,2")
    return counts


def eval_set(text: str) -> str:
    """An argument that `EvalSet.parse` takes."""
    EvalSet.parse(text)
    return text


def path_of(work: Path, name: str) -> Path:
    """Where a section's measurements are kept."""
    return work / f"{name}.json"


def read(work: Path) -> dict[str, dict[str, Any]]:
    """What is measured already, by section."""
    return {name: json.loads(path_of(work, name).read_text()) for name in SECTIONS if path_of(work, name).exists()}


def measure(name: str, plan: Plan) -> dict[str, Any]:
    """A section's record: its data or its error, and where and when."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    record: dict[str, Any] = {"section": name, "quick": plan.quick, "seed": plan.seed}
    record.update(threads=[*plan.threads], sets=[*plan.sets])
    record["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record["environment"], record["load"] = facts(), os.getloadavg()[0]
    began = time.perf_counter()
    try:
        record["data"] = importlib.import_module(f"speed.{name}").measure(plan)
    except Exception as error:  # the other sections go on
        traceback.print_exc()
        record["error"] = f"{type(error).__name__}: {error}"
    record["seconds"] = time.perf_counter() - began
    print(f"{name}: {record['seconds']:.0f} s", file=sys.stderr, flush=True)
    return record


def is_done(record: dict[str, Any] | None, plan: Plan) -> bool:
    """Whether a section is measured already as this run would."""
    if record is None or "data" not in record:
        return False
    same_sets = record["section"] != "bf16" or not plan.sets or record["sets"] == [*plan.sets]
    return same_sets and (record["quick"], record["threads"], record["seed"]) == (
        plan.quick,
        [*plan.threads],
        plan.seed,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 where a section failed."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=section_list, default=list(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything works")
    parser.add_argument("--again", action="store_true", help="measure what is measured already, too")
    parser.add_argument("--threads", type=thread_list, help="default: 1 and all cores; of a quick run, all cores only")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for measurements and made audio")
    parser.add_argument("--out", type=Path, help="default: benchmarks/RESULTS.md; of a quick run, in the work folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--eval",
        dest="sets",
        type=eval_set,
        action="append",
        default=[],
        metavar="NAME=FOLDER[:FIELD]",
        help="labelled audio on which the accuracy of bfloat16 is measured; may be repeated",
    )
    options = parser.parse_args(arguments)

    options.work.mkdir(parents=True, exist_ok=True)
    threads = options.threads or ((cores,) if options.quick else tuple(sorted({1, cores})))
    plan = Plan(options.work.resolve() / "audio", options.quick, threads, tuple(options.sets), options.seed)
    records = read(options.work)
    for name in options.only:
        if options.again or not is_done(records.get(name), plan):
            records[name] = measure(name, plan)
            write(path_of(options.work, name), json.dumps(records[name], indent=1) + "\n")
    out = options.out or (options.work if options.quick else BENCHMARKS) / "RESULTS.md"
    write(out, render(records))
    return int(any("error" in records[name] for name in options.only))


if __name__ == "__main__":
    sys.exit(main())
