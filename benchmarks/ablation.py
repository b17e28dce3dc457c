r"""Compare training runs: what each changes in its config, and its few-shot accuracy with whitened heads.

    python benchmarks/ablation.py runs/base runs/other ... --title "Short runs" --eval esc50-val=FOLDER \
        --eval fsdd-speaker=FOLDER:1 --out benchmarks/ABLATION.md

The first run is the one that the others are compared with. Heads are those of `mtslvr whiten` for all, with the options
that `--heads "OPTIONS"` gives; given several times, every run has a row with each. The file has a
section a title; one of the same title is replaced, the others stay.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from click.core import ParameterSource
from model_card import CLASSIFIERS, FEATURES, EvalSet, Run, table, write

from mtslvr.cli.whiten import whiten_command
from mtslvr.config import Rows
from mtslvr.fewshot import EpisodeConfig
from mtslvr.fewshot import run as few_shot
from mtslvr.training.run import environment
from mtslvr.training.whiten import CLIPS, whiten

HEAD = "# Ablations\n\nWritten by `python benchmarks/ablation.py`.\n\n"
NOT_TOLD = ("steps", "seed")  # the budget has its own column


def settings(run: Run) -> dict[str, Any]:
    """The config of a run, flat."""
    return dict(flat("", run.config.to_dict()))


def flat(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entries of nested dictionaries, with dots between their keys."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def difference(run: Run, base: Run) -> str:
    """The settings in which two runs differ, as the first one has them."""
    ours, theirs = settings(run), settings(base)
    changed = [f"{key} {json.dumps(ours[key])}" for key in ours if ours[key] != theirs[key] and key not in NOT_TOLD]
    return ", ".join(changed) or "as above"


def heads_of(text: str) -> dict[str, Any]:
    """Arguments of `whiten` from options of `mtslvr whiten`, those that are given."""
    context = whiten_command.make_context("whiten", ["RUN", "OUT", *shlex.split(text)])
    given = {k: v for k, v in context.params.items() if context.get_parameter_source(k) is ParameterSource.COMMANDLINE}
    return {k: Rows.parse(v) if k.endswith("_rows") else v for k, v in given.items() if k not in ("run", "out_dir")}


def accuracies(
    folder: Path,
    sets: list[EvalSet],
    config: EpisodeConfig,
    options: argparse.Namespace,
    more: str,
    start: Path | None = None,
) -> tuple[list[str], float]:
    """A cell for each set, and the widest interval: of a run, or of `start` with heads made on the run's clips."""
    cells, widest = [], 0.0
    with tempfile.TemporaryDirectory() as temporary:
        share = 1.0 if start is None else 0.0
        heads: dict[str, Any] = {"clips": options.clips, "disturb": options.disturb}
        heads.update({"average_with": start, "share": share, **heads_of(more)})
        model = whiten(folder, Path(temporary) / "whitened", **heads)
        for eval_set in sets:
            rows = few_shot(
                eval_set.folder,
                model=str(model),
                label_field=eval_set.label_field,
                episodes=config.episodes,
                seed=config.seed,
                classifiers=[options.classifier],
            )
            found = {row.features: row.result for row in rows if row.features != "log-mel"}
            cells.append(" / ".join(f"{found[name].mean:.1f}" for name in FEATURES if name in found))
            widest = max(widest, *(result.ci95 for result in found.values()))
    return cells, widest


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, the one to compare with first")
    parser.add_argument("--eval", dest="sets", type=EvalSet.parse, action="append", required=True)
    parser.add_argument("--title", required=True, help="of the section")
    parser.add_argument("--start", type=Path, help="checkpoint that the runs started from, for a row of its own")
    parser.add_argument("--only-start", action="store_true", help="no rows of the runs: the first gives the clips")
    parser.add_argument("--heads", action="append", metavar="OPTIONS", help="of `mtslvr whiten`; may be repeated")
    parser.add_argument("--classifier", choices=list(CLASSIFIERS), default="logistic")
    parser.add_argument("--clips", type=int, default=CLIPS, help="that the heads are whitened by")
    parser.add_argument(
        "--disturb", action=argparse.BooleanOptionalAction, default=True, help="as `mtslvr whiten --disturb`"
    )
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.only_start and options.start is None:
        parser.error("--only-start: needs --start")
    torch.set_num_threads(options.threads)

    config = EpisodeConfig(episodes=options.episodes, seed=options.seed)
    runs = [Run.read(folder) for folder in options.runs]
    rows = [["run", "settings", "steps", "clips", *(s.name for s in options.sets)]]
    widest = 0.0
    several = options.heads or [""]
    for heads in several:
        if options.start is not None:
            cells, interval = accuracies(options.runs[0], options.sets, config, options, heads, options.start)
            widest = max(widest, interval)
            rows.append(["start", heads and f"`{heads}`", "", "", *cells])
            print(rows[-1], flush=True)
        for folder, run in () if options.only_start else zip(options.runs, runs, strict=True):
            told = "base" if run is runs[0] else difference(run, runs[0])
            clips = f"{run.steps_done * run.config.batch_size:,}"
            cells, interval = accuracies(folder, options.sets, config, options, heads)
            widest = max(widest, interval)
            told = f"{told}; `{heads}`" if len(several) > 1 else told
            rows.append([folder.name, told, str(run.steps_done), clips, *cells])
            print(rows[-1], flush=True)
    env = environment()
    base = ", ".join(f"{key} {json.dumps(value)}" for key, value in settings(runs[0]).items() if "." not in key)
    starts = [
        f"{f.name} from {r.environment.get('init', 'random weights')}" for f, r in zip(options.runs, runs, strict=True)
    ]
    body = (
        f"Accuracy in %, invariant / variant / concat, 5-way 1-shot, {CLASSIFIERS[options.classifier]}, "
        f"{config.episodes:,} episodes (95% intervals up to ± {widest:.1f}), seed {config.seed}, heads whitened by "
        f"{options.clips:,} clips, {'with' if options.disturb else 'without'} disturbed ones"
        f"{f', `{several[0]}`' if len(several) == 1 and several[0] else ''}; mtslvr "
        f"{env['mtslvr']}, torch {env['torch']}, {env['cpu']}, commit {env['git_revision'][:12]}. "
    )
    if options.only_start:
        columns = [[name.replace("settings", "heads"), *cells] for _, name, _, _, *cells in rows]
        body += f"The weights that runs started from, but for their heads.\n\n{table(columns)}\n"
    else:
        body += (
            f"Only what differs from the base is told; one run a row, one seed.\n\n{table(rows)}\n\n"
            f"Settings of the base: {base}.\n\nWhere the runs started: {'; '.join(starts)}.\n"
        )
    before = options.out.read_text(encoding="utf-8") if options.out.exists() else ""
    write(options.out, with_section(before, options.title, body))


def with_section(text: str, title: str, body: str) -> str:
    """The file's text with a section added, or replaced where it is there."""
    head, *sections = re.split(r"^## ", text or HEAD, flags=re.MULTILINE)
    found = dict(section.split("\n\n", 1) for section in sections)
    found[title] = body
    return head + "\n".join(f"## {name}\n\n{content.rstrip()}\n" for name, content in found.items())


if __name__ == "__main__":
    main()
