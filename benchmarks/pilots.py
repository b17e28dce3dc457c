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
`heads` of its own. Names of runs that differ by seed alone end in -SEED; those of one factorial begin alike, up to the
first "-". Runs and measurements that were killed go on. Each pair of a run and heads is a line of OUT/results.jsonl:
accuracies in % as {set: {shots: {features: {scaling: mean}}}} and, as "spread", the deviation of the same over random
halves of each class's clips (scaling l2).

    python benchmarks/pilots.py QUEUE.json --table [MORE_RESULTS.jsonl ...]

prints a row a run and heads, and what each setting of a factorial with two levels changes.

    python benchmarks/pilots.py QUEUE.json --record benchmarks/runs/pilots.jsonl

adds the results to a file of the repository, with names of data in place of folders; `ablation.py` makes its table.
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
from mtslvr.cli.train import changes, whiten_command
from mtslvr.fewshot import EpisodeConfig, evaluate, read_set
from mtslvr.fewshot.features import extract_features
from mtslvr.run.machine import environment
from mtslvr.training.config import HeadsConfig, TrainConfig
from mtslvr.training.data import is_packed, pack
from mtslvr.training.loop import train
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
    parser.add_argument("--table", nargs="*", type=Path, metavar="FILE", help="print results, also of these files")
    parser.add_argument("--record", type=Path, metavar="FILE", help="add the results to this file and end")
    options = parser.parse_args()
    if options.record or options.table is not None:
        queue = json.loads(options.queue.read_text())
        files = [options.record] if options.record else options.table
        rows = results(*files, Path(queue["out"]) / "results.jsonl")
        if options.record:
            options.record.write_text("".join(json.dumps(without_folders(row)) + "\n" for row in rows))
        else:
            print("\n\n".join([table(rows), *factorials(rows)]))
    elif options.one:
        torch.set_num_threads(1)
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


def results(*paths: Path) -> list[dict[str, Any]]:
    """What was measured, the last of each run and heads; a torn line does not count."""
    found = {}
    for line in (line for path in paths if path.exists() for line in path.read_text().splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row.get("question"), row.get("answer"), row["name"], row["heads"]] = row
    return list(found.values())


def without_folders(row: dict[str, Any]) -> dict[str, Any]:
    """A row in which data have the names of their folders."""
    return {**row, "data": [Path(folder).name for folder in row["data"]]}


def missing_heads(queue: dict[str, Any], pilot: dict[str, Any]) -> dict[str, str]:
    """Names and options of the heads that a pilot is still to be measured with."""
    measured_rows = results(Path(queue["out"]) / "results.jsonl")
    done = {row["heads"] for row in measured_rows if row["name"] == pilot["name"]}
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


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a question and heads, 1-shot / 5-shot of each set and features, the mean over seeds.

    The better scaling of rows counts. The last columns are the mean over sets of the best features, and its standard
    deviation over seeds.
    """
    names = list(dict.fromkeys(name for row in rows for name in row["accuracies"]))
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((re.sub(r"-\d+$", "", row["name"]), row["heads"]), []).append(row["accuracies"])
    lines = [["run", "heads", "seeds", *(f"{name} {f}" for name in names for f in FEATURES), "best", "±"]]
    for (run, heads), measured_rows in groups.items():
        found = np.array([[accuracies_of(row[name]) for name in names] for row in measured_rows])
        cells = [f"{one:.1f} / {five:.1f}" for one, five in found.mean(axis=0).reshape(-1, 2)]
        best = found.max(axis=2).mean(axis=(1, 2))
        spread = f"{best.std(ddof=1):.1f}" if len(best) > 1 else ""
        lines.append([run, heads, str(len(best)), *cells, f"{best.mean():.1f}", spread])
    return markdown(lines)


def factorials(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: what each setting changes, for every group of runs that can tell, see `effects`."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["name"].split("-")[0], row["heads"]), []).append(row)
    found = []
    for (prefix, heads), runs in groups.items():
        settings, design = factors(runs)
        if settings and np.linalg.matrix_rank(design) == design.shape[1]:
            title = f"{prefix}, heads {heads}: {len(runs)} runs, mean with a setting minus without ± its standard error"
            found.append(f"{title}\n\n{effects(runs, settings, design)}")
    return found


def factors(runs: list[dict[str, Any]]) -> tuple[list[str], np.ndarray]:
    """Settings that some of the runs change, those that go together as one, and the design of their linear model.

    Returns:
        (runs, 1 + settings): 1, then 1/2 where a run has the setting and -1/2 where it has not.
    """
    sets = [{f"{key} {json.dumps(v)}" for key, v in flat(run["changes"]).items() if key != "seed"} for run in runs]
    together: dict[tuple[bool, ...], list[str]] = {}
    for setting in sorted(set().union(*sets)):
        together.setdefault(tuple(setting in has for has in sets), []).append(setting)
    columns = {has: ", ".join(names) for has, names in together.items() if not all(has)}
    return list(columns.values()), np.array([[1.0] * len(runs), *(np.array(has) - 0.5 for has in columns)]).T


def flat(changes: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Changes with names such as "encoder.adapter"; what heads read is one setting."""
    found: dict[str, Any] = {}
    for key, value in changes.items():
        inner = isinstance(value, dict) and not key.endswith("_rows")
        found.update(flat(value, f"{prefix}{key}.") if inner else {prefix + key: value})
    return found


def effects(runs: list[dict[str, Any]], settings: list[str], design: np.ndarray) -> str:
    """Markdown: the least-squares effect of each setting on each set and features, the mean of 1 and 5 shots.

    Standard errors are of what the settings leave unexplained, interactions of two settings among it; there are none
    where as many runs as numbers are fitted.
    """
    names = list(runs[0]["accuracies"])
    found = np.array([[accuracies_of(run["accuracies"][name]) for name in names] for run in runs]).mean(axis=3)
    values = np.column_stack([found.reshape(len(runs), -1), found.max(axis=2).mean(axis=1)])
    fitted = np.linalg.lstsq(design, values, rcond=None)[0]
    freedom = len(runs) - design.shape[1]
    variance = ((values - design @ fitted) ** 2).sum(axis=0) / max(1, freedom)
    errors = np.sqrt(np.outer(np.linalg.inv(design.T @ design).diagonal(), variance))
    lines = [["setting", *(f"{name} {f}" for name in names for f in FEATURES), "best"]]
    for setting, row, error in zip(settings, fitted[1:], errors[1:], strict=True):
        told = [f" ± {e:.1f}" if freedom else "" for e in error]
        lines.append([setting, *(f"{value:+.1f}{more}" for value, more in zip(row, told, strict=True))])
    return markdown(lines)


def accuracies_of(measured_set: dict[str, Any]) -> list[list[float]]:
    """Of one set: a list of features, of 1 and 5 shots each; the better scaling counts."""
    return [[max(measured_set[str(shots)][f].values()) for shots in SHOTS] for f in FEATURES]


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        sys.exit(1)
