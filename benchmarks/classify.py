r"""Measure what `mtslvr classify` is for: features chosen by a few examples, and labels with times.

    python benchmarks/classify.py --eval esc50-val=FOLDER --eval fsdd-digit=FOLDER:0 --eval fsdd-speaker=FOLDER:1 \
        --eval callers=CORPUS/report-sets/callers ... --out benchmarks/CLASSIFY.md

NAME=FOLDER has a folder a class; NAME=FOLDER:1 takes the class from field 1 of each file's name, parted by "_".
Needs scikit-learn, for what the events are compared with.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from events import RATE, found_events, of_clips, percentages, synthetic, write_examples

import mtslvr
from mtslvr.audio.find import find_audio
from mtslvr.classify.choose import choose, fit_linear, softmax, unit_rows
from mtslvr.fewshot.results import markdown
from mtslvr.run.machine import environment

SHOTS, WAYS = (1, 2, 5, 10), 5
METHODS = ("invariant", "variant", "concat", "chosen")
SHARES = {"invariant": 1.0, "variant": 0.0, "concat": 0.5}
SHOWN = (0.5, 0.9)  # thresholds
Rows = np.ndarray[Any, np.dtype[Any]]
Line = list[str]
Clips = Mapping[str, Sequence[Path]]


# Episodes


def clips(given: str) -> tuple[str, dict[str, list[Path]]]:
    """The name of a set, given as NAME=FOLDER[:FIELD], and its clips by class."""
    name, _, folder = given.partition("=")
    folder, _, field = folder.partition(":")
    found = defaultdict(list)
    for file in find_audio(folder):
        found[file.path.stem.split("_")[int(field)] if field else file.path.parent.name].append(file.path)
    return name, dict(sorted(found.items()))


def embedded(name: str, clips: Clips, cache: Path | None) -> tuple[Rows, Rows]:
    """One concatenated embedding a clip, from `cache` where it is there, and the number of its class."""
    paths = [path for members in clips.values() for path in members]
    kept = None if cache is None else cache / f"{name}.npy"
    if kept is not None and kept.exists():
        rows = np.load(kept)
    else:
        rows = np.stack([r.embedding for r in mtslvr.embed_files(paths, on_error="raise")])
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.save(kept, rows)
    return rows, np.repeat(np.arange(len(clips)), [len(members) for members in clips.values()])


def scores(rows: Rows, supports: Rows, targets: Rows, queries: Rows, share: float) -> Rows:
    """Decision values of the queries by a classifier of the supports."""
    x, q = (unit_rows(rows[drawn], share, rows.shape[1] // 2) for drawn in (supports, queries))
    factors, intercepts = fit_linear((x @ x.T)[None], targets, int(targets.max()) + 1)
    return np.asarray(q @ x.T @ factors[0] + intercepts[0])


def measured(
    rows: Rows, labels: Rows, shots: int, episodes: int, seed: int
) -> tuple[dict[str, tuple[float, float]], Rows]:
    """Measure over episodes.

    Returns:
        Percent correct of each way with half its 95% interval over clips, each clip's share of right answers being one
        value; and of each answer by the chosen features its score, the score without calibration, and whether it is
        right (n, 3).
    """
    rng = np.random.default_rng(seed)
    right: dict[str, dict[int, list[bool]]] = {name: defaultdict(list) for name in METHODS}
    answers = []
    of_class = [np.flatnonzero(labels == k) for k in range(labels.max() + 1)]
    for _ in range(episodes):
        classes = rng.choice(len(of_class), min(WAYS, len(of_class)), replace=False)
        drawn = [rng.permutation(of_class[k]) for k in classes]
        supports = np.concatenate([d[:shots] for d in drawn])
        queries = np.concatenate([d[shots : shots + 15] for d in drawn])
        targets = np.repeat(np.arange(len(classes)), shots)
        true = np.concatenate([np.full(len(d[shots : shots + 15]), i) for i, d in enumerate(drawn)])
        names = [str(i) for i in supports]
        chosen = choose(rows[supports], targets, names, rows.shape[1] // 2).chosen
        for name in METHODS:
            found = scores(rows, supports, targets, queries, SHARES.get(name, chosen.share))
            hits = found.argmax(axis=1) == true
            for clip, hit in zip(queries, hits, strict=True):
                right[name][int(clip)].append(bool(hit))
        # "chosen" is the last of them.
        answers.append(np.stack([*(softmax(found / t).max(axis=1) for t in (chosen.temperature, 1.0)), hits], axis=1))
    values = {name: np.array([np.mean(hits) for hits in right[name].values()]) for name in METHODS}
    accuracy = {name: (100 * v.mean(), 196 * v.std(ddof=1) / np.sqrt(len(v))) for name, v in values.items()}
    return accuracy, np.concatenate(answers)


def calibration_error(score: Rows, hit: Rows) -> float:
    """How far, in percent, scores are from the share of right answers: the mean over ten bins of equal width."""
    bins = np.minimum((10 * score).astype(int), 9)
    gaps = [abs(score[bins == b].sum() - hit[bins == b].sum()) for b in np.unique(bins)]
    return float(100 * sum(gaps) / len(score))


def calibration(shots: int, answers: Rows) -> list[str]:
    """A line of the table of scores."""
    score, raw, hit = answers.T
    sure = score >= 0.9
    figures = [100 * score.mean(), 100 * hit.mean(), calibration_error(score, hit), calibration_error(raw, hit)]
    figures += [100 * sure.mean(), 100 * hit[sure].mean() if sure.any() else np.nan]
    return [str(shots), *(f"{x:.1f}" for x in figures)]


def stored_speed() -> tuple[int, float]:
    """Windows in 10 hours at a hop of 0.5 s, and the seconds in which `mtslvr classify` labels them from an npy."""
    hours, minutes = 10, 2
    made = synthetic(minutes, np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_examples(made, root / "calls")
        soundfile.write(root / "part.wav", made.wave, RATE)
        windows = ["--pool", "none", "--window", "1.2", "--hop", "0.5"]
        subprocess.run(["mtslvr", "embed", "part.wav", "-o", "part.npy", "-q", *windows], cwd=root, check=True)
        part = mtslvr.read_table(root / "part.npy")
        times = hours * 60 // minutes
        files = [f"{i}.wav" for i in range(times) for _ in part.paths]
        np.save(root / "all.npy", np.tile(part.embeddings, (times, 1)))
        lines = zip(range(len(files)), files, np.tile(part.start, times), np.tile(part.end, times), strict=True)
        text = "".join(f"{row},{name},{start},{end}\n" for row, name, start, end in lines)
        (root / "all.npy.index.csv").write_text(f"row,file,start,end\n{text}")
        shutil.copy(root / "part.npy.meta.json", root / "all.npy.meta.json")
        begun = time.perf_counter()
        subprocess.run(["mtslvr", "classify", "calls", "all.npy", "-o", "labels.csv", "-q"], cwd=root, check=True)
        return len(files), time.perf_counter() - begun


# The file


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return markdown([head, *lines]) + "\n"


def event_lines(sets: Mapping[str, Clips], minutes: float, repeats: int, seed: int) -> list[Line]:
    """Lines of the table of events: synthetic calls, then those of each set among sounds of all the others."""
    lines = []
    for name in ("synthetic", *sets):
        own = {path for members in sets.get(name, {}).values() for path in members}
        elsewhere = [path for other in sets.values() for members in other.values() for path in members]
        elsewhere = [path for path in elsewhere if path not in own]
        rngs = [np.random.default_rng([seed, repeat]) for repeat in range(repeats)]
        scenes = (
            synthetic(minutes, rng) if name == "synthetic" else of_clips(sets[name], elsewhere, minutes, rng)
            for rng in rngs
        )
        for way, found in found_events(scenes).items():
            best = max(found, key=lambda threshold: percentages(found[threshold])[2])
            figures = [f"{x:.1f}" for threshold in SHOWN for x in percentages(found[threshold])[:2]]
            lines.append([name, way, *figures, f"{percentages(found[best])[2]:.1f} ({best})"])
            print(*lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eval", action="append", default=[], metavar="NAME=FOLDER[:FIELD]")
    parser.add_argument("--cache", type=Path, help="folder that keeps the embeddings of the sets")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=10.0, help="of a recording with known calls")
    parser.add_argument("--repeats", type=int, default=3, help="of these recordings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    sets = dict(map(clips, args.eval))
    lines, answers = [], defaultdict(list)
    for name in sets:
        rows, labels = embedded(name, sets[name], args.cache)
        for shots in SHOTS:
            got, scored = measured(rows, labels, shots, args.episodes, args.seed)
            answers[shots].append(scored)
            lines.append([name, str(shots), *(f"{got[m][0]:.1f} ± {got[m][1]:.1f}" for m in METHODS)])
            print(*lines[-1], flush=True)
    worth = [calibration(shots, np.concatenate(answers[shots])) for shots in answers]
    found = event_lines(sets, args.minutes, args.repeats, args.seed)
    args.out.write_text(page(args, (lines, worth, found), stored_speed()), encoding="utf-8")


def page(given: argparse.Namespace, tables: Sequence[list[Line]], speed: tuple[int, float]) -> str:
    """The whole file, with the tables of episodes, of scores and of events."""
    episodes, worth, events = tables
    machine = ", ".join(f"{name} {value}" for name, value in environment().items() if value)
    machine += f", scikit-learn {metadata.version('scikit-learn')}, {torch.get_num_threads()} threads"
    heads = [f"{name} at {threshold:g}" for threshold in SHOWN for name in ("precision", "recall")]
    return f"""# Classification from a few examples

Written by `python benchmarks/classify.py`; seed {given.seed}, the bundled weights.

{machine}.

## Features chosen by the examples

{WAYS} classes an episode, {given.episodes} episodes, up to 15 queries a class. Percent correct, with half the 95%
interval over clips. *chosen* is what cross-validation on the supports alone takes of five mixtures of invariant and
variant. Settings were chosen on esc50-val and the two tasks of FSDD, and on no other set.

{table(["set", "examples a class", *METHODS], episodes)}
## What a score is worth

The answers of all these episodes by the chosen features. *Error* is the mean distance of scores from the share of right
answers, over ten bins of equal width; *uncalibrated*, the same of the classifier's own probabilities. With one example
a class nothing can be measured, and the temperature is the usual one.

{table(["examples a class", "mean score", "right", "error", "uncalibrated", "scores from 90", "of these right"], worth)}
## Events

{given.repeats} recordings of {given.minutes:g} minutes of each kind: wind, and every four seconds a sound at 0 to
20 dB, half of them calls. *Synthetic*: five calls of 0.6 to 1.2 s, and bursts, clicks, hum and thuds. Sets: three
classes are the calls, and the other sounds are clips of the set's other classes and of the other sets, in turn, cut to
2 s. Five examples a class, from 10 dB on, and of *background* four other sounds and wind. Windows and hop as the
command chooses them. An event is right where it overlaps a call of its class. *By hand* is scikit-learn's logistic
regression on concat, windows joined in the same way. *Best F1* is at the threshold in parentheses, which is chosen by
the calls themselves.

{table(["", "", *heads, "best F1"], events)}
## Speed

`mtslvr classify` labels {speed[0]:,} stored windows (10 hours at a hop of 0.5 s, npy) in {speed[1]:.1f} s, with start,
30 examples embedded and {speed[0]:,} rows of 4 kB read. From audio, the time is that of `mtslvr-embed`.
"""


if __name__ == "__main__":
    main()
