r"""Short training runs of equal budget, one after the other, each measured on validation sets.

    nohup nice -n 15 python benchmarks/pilots.py QUEUE.json >> pilots.log 2>&1 &

QUEUE.json may be edited while this runs; it is read again after every run, and the first run in it that is not done and
whose data is there is next:

    {
      "out": "runs",
      "sets": ["esc50-val=FOLDER", "fsdd-speaker=FOLDER:1"],
      "base": {"steps": 312, "heads": null, "ema_decay": 0},
      "heads": {"released": "", "means": "--invariant-rows none --no-spectral-statistics"},
      "pilots": [{"name": "free-1", "data": ["packed/free"], "changes": {"seed": 1}}]
    }

A run is the recipe with `base`, then with `changes`; `heads` are options of `mtslvr whiten`, and a pilot may have
`heads` of its own. Names of runs that differ by seed alone end in -SEED. Runs and measurements that were killed go on.
Each pair of a run and heads is a line of OUT/results.jsonl: accuracies in % as {set: {shots: {features: {scaling:
mean}}}} and, as "spread", the deviation of the same over random halves of each class's clips (scaling l2). `--table`
prints them, a row a question.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_card import EvalSet
from model_card import table as markdown

import mtslvr
from mtslvr.cli.whiten import changes, whiten_command
from mtslvr.fewshot import EpisodeConfig, evaluate, read_set
from mtslvr.fewshot.features import extract_features
from mtslvr.training.config import HeadsConfig, TrainConfig
from mtslvr.training.data import is_packed, pack
from mtslvr.training.loop import train
from mtslvr.training.memory import keep_freed_memory
from mtslvr.training.run import environment
from mtslvr.training.whiten import whiten

FEATURES = ("invariant", "variant", "concat")
SHOTS, QUERIES, EPISODES = (1, 5), 5, 600
HALVES, EPISODES_A_HALF = 20, 100
WAIT = 60  # seconds before the queue is read again when nothing is left to do


def main() -> None:
    """Run the queue, one pilot of it, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queue", type=Path)
    parser.add_argument("--one", metavar="NAME", help="run this pilot and end")
    parser.add_argument("--once", action="store_true", help="end when nothing is left to do")
    parser.add_argument("--table", action="store_true", help="print the results and end")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.queue.read_text())))
    elif options.one:
        torch.set_num_threads(1)
        keep_freed_memory()
        run_pilot(json.loads(options.queue.read_text()), options.one)
    else:
        run_queue(options.queue, options.once)


def run_queue(path: Path, once: bool) -> None:
    """Each pilot in a process of its own, so that one that fails does not take the others with it."""
    failed: set[str] = set()
    while True:
        try:
            queue = json.loads(path.read_text())
            pilots = [p for p in queue["pilots"] if p["name"] not in failed and all(map(there, p["data"]))]
            ready = [p["name"] for p in pilots if missing_heads(queue, p)]
        except (ValueError, KeyError) as error:
            print(f"{path}: not a queue just now ({error})", flush=True)
            ready = []
        if ready:
            print(f"{time.strftime('%F %T')} {ready[0]}", flush=True)
            if subprocess.run([sys.executable, __file__, str(path), "--one", ready[0]]).returncode:
                failed.add(ready[0])
        elif once:
            return
        else:
            time.sleep(WAIT)


def there(folder: str) -> bool:
    """Whether clips are packed in a folder."""
    return is_packed(Path(folder))


def results(queue: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured; a torn last line does not count."""
    path = Path(queue["out"]) / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def missing_heads(queue: dict[str, Any], pilot: dict[str, Any]) -> dict[str, str]:
    """Names and options of the heads that a pilot is still to be measured with."""
    done = {row["heads"] for row in results(queue) if row["name"] == pilot["name"]}
    heads: dict[str, str] = pilot.get("heads", queue["heads"])
    return {name: options for name, options in heads.items() if name not in done}


def run_pilot(queue: dict[str, Any], name: str) -> None:
    """Train, make heads, measure; what is there already is not done again."""
    pilot = next(p for p in queue["pilots"] if p["name"] == name)
    out = Path(queue["out"])
    folder = out / "pilots" / name
    config = TrainConfig().changed(queue["base"]).changed(pilot["changes"])
    data = joined(pilot["data"], out / "packed", config)
    resume = (folder / "config.json").exists()
    train(config, folder, [] if resume else [data], resume=resume, device="cpu", workers=0, save_every=20)
    for heads, text in missing_heads(queue, pilot).items():
        model = whiten(folder, folder / f"heads-{heads}", heads_of(text))
        accuracies, spread = {}, {}
        for eval_set in map(EvalSet.parse, queue["sets"]):
            accuracies[eval_set.name], spread[eval_set.name] = measured(eval_set, model)
        rates = [float(line.split(",")[-1]) for line in (folder / "losses.csv").read_text().splitlines()[1:]]
        row = {
            "name": name,
            "heads": heads,
            "options": text,
            "data": pilot["data"],
            "changes": pilot["changes"],
            "base": queue["base"],
            "clips": config.steps * config.batch_size,
            "clips_per_second": float(np.median(rates)),
            "losses": (folder / "losses.csv").read_text().splitlines()[-1],
            "accuracies": accuracies,
            "spread": spread,
            "environment": environment(),
        }
        with open(out / "results.jsonl", "a") as file:
            file.write("\n" + json.dumps(row) + "\n")  # a torn line before it ends here


def heads_of(text: str) -> HeadsConfig:
    """Heads from options of `mtslvr whiten`, the others as in the recipe."""
    context = whiten_command.make_context("whiten", ["RUN", "OUT", *shlex.split(text)])
    return HeadsConfig(**changes({k: v for k, v in context.params.items() if k not in ("run", "out_dir")}))


def joined(data: list[str], folder: Path, config: TrainConfig) -> Path:
    """One folder of packed clips; several are joined once, below `folder`."""
    if len(data) == 1:
        return Path(data[0])
    out = folder / "+".join(Path(part).parent.name + "-" + Path(part).name for part in data)
    if not is_packed(out):
        pack(data, out, config.encoder.frontend.sample_rate)
    return out


def measured(eval_set: EvalSet, model: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Accuracies of one set and their spread, as {shots: {features: ...}}."""
    labelled = read_set(eval_set.folder, label_field=eval_set.label_field)
    labels = np.asarray(labelled.labels)
    matrices = extract_features(labelled.paths, mtslvr.load(model), names=FEATURES)
    accuracies: dict[str, Any] = {}
    spread: dict[str, Any] = {}
    for shots in SHOTS:
        config = EpisodeConfig(5, shots, QUERIES, EPISODES)
        small = EpisodeConfig(5, shots, QUERIES, EPISODES_A_HALF)
        accuracies[str(shots)], spread[str(shots)] = {}, {}
        for name, matrix in matrices.items():
            accuracies[str(shots)][name] = {
                scaling: round(evaluate(matrix, labels, config, scaling=scaling).mean, 2)
                for scaling in ("l2", "standard")
            }
            of_halves = [evaluate(matrix[half], labels[half], small).mean for half in halves(labels)]
            spread[str(shots)][name] = round(float(np.std(of_halves, ddof=1)), 2)
    return accuracies, spread


def halves(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of random halves of each class's clips.

    The deviation of a mean over random halves estimates that of the mean over all, since halves leave out as many clips
    as they keep.

    Source:
        Shao and Wu 1989, the delete-d jackknife, doi 10.1214/aos/1176347263
    """
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(len(labels))
        yield np.concatenate([(mine := order[labels[order] == label])[: len(mine) // 2] for label in np.unique(labels)])


def table(queue: dict[str, Any]) -> str:
    """Markdown: a row a question and heads, 1-shot / 5-shot of each set and features, the mean over seeds.

    The better scaling of rows counts. The last columns are the mean over sets of the best features, and its standard
    deviation over seeds.
    """
    names = [EvalSet.parse(text).name for text in queue["sets"]]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results(queue):
        groups.setdefault((re.sub(r"-\d+$", "", row["name"]), row["heads"]), []).append(row["accuracies"])
    lines = [["run", "heads", "seeds", *(f"{name} {f}" for name in names for f in FEATURES), "best", "±"]]
    for (run, heads), measured_rows in groups.items():
        found = np.array([[accuracies_of(row[name]) for name in names] for row in measured_rows])
        cells = [f"{one:.1f} / {five:.1f}" for one, five in found.mean(axis=0).reshape(-1, 2)]
        best = found.max(axis=2).mean(axis=(1, 2))
        spread = f"{best.std(ddof=1):.1f}" if len(best) > 1 else ""
        lines.append([run, heads, str(len(best)), *cells, f"{best.mean():.1f}", spread])
    return markdown(lines)


def accuracies_of(measured_set: dict[str, Any]) -> list[list[float]]:
    """Of one set: a list of features, of 1 and 5 shots each."""
    return [[max(measured_set[str(shots)][f].values()) for shots in SHOTS] for f in FEATURES]


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        sys.exit(1)
