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
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from sklearn.linear_model import LogisticRegression

import mtslvr
from mtslvr.audio.load import find_audio
from mtslvr.classify import Classifier, EventConfig, Label, find_events
from mtslvr.classify.choose import choose, fit_linear, softmax, unit_rows
from mtslvr.run.machine import environment
from mtslvr.run.table import EmbeddingTable

SHOTS, WAYS = (1, 2, 5, 10), 5
METHODS = ("invariant", "variant", "concat", "chosen")
SHARES = {"invariant": 1.0, "variant": 0.0, "concat": 0.5}
RATE = 16_000
Rows = np.ndarray[Any, np.dtype[Any]]


# Episodes


def embedded(folder: str, field: int | None, cache: Path | None) -> tuple[Rows, Rows]:
    """One concatenated embedding a clip, from `cache` where it is there, and the number of its class."""
    files = find_audio(folder)
    labels = [f.path.parent.name if field is None else f.path.stem.split("_")[field] for f in files]
    kept = None if cache is None else cache / f"{Path(folder).name}.npy"
    if kept is None or not kept.exists():
        rows = np.stack([r.embedding for r in mtslvr.embed_files([f.path for f in files], on_error="raise")])
        if kept is not None:
            np.save(kept, rows)
    else:
        rows = np.load(kept)
    return rows, np.unique(labels, return_inverse=True)[1]


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


# Events


def call(kind: int, rng: np.random.Generator) -> Rows:
    """One of five calls, of 0.6 to 1.2 s, each time a little different, with root mean square 1."""
    t = np.arange(int(rng.uniform(0.6, 1.2) * RATE)) / RATE
    pitch = rng.uniform(0.9, 1.1)
    phase = 2 * np.pi * pitch * t
    waves: list[Callable[[], Rows]] = [
        lambda: np.sin(phase * (1500 + 1000 * t)),  # rises
        lambda: np.sin(phase * (4000 - 1000 * t)),  # falls
        lambda: np.sin(phase * 3000) * (np.sin(2 * np.pi * 12 * t) > 0),  # a trill
        lambda: sum(np.sin(phase * 400 * k) / k for k in range(1, 9)),  # a harmonic hoot
        lambda: np.sin(phase * 2000 + 8 * np.sin(2 * np.pi * 25 * t)),  # a warble
    ]
    wave = waves[kind]() * np.hanning(len(t))
    return np.asarray(wave / np.sqrt(np.mean(wave**2)))


def other(rng: np.random.Generator) -> Rows:
    """A sound that is none of the calls: a burst of noise, a click train, a steady hum or a door's thud."""
    t = np.arange(int(rng.uniform(0.3, 2.0) * RATE)) / RATE
    kind = rng.integers(4)
    noise = rng.normal(size=len(t))
    if kind == 0:
        wave = noise
    elif kind == 1:
        wave = 0.05 * noise + noise * (np.sin(2 * np.pi * rng.uniform(4, 20) * t) > 0.97)
    elif kind == 2:
        wave = np.sin(2 * np.pi * rng.uniform(80, 200) * t) + 0.3 * np.sin(2 * np.pi * rng.uniform(300, 900) * t)
    else:
        wave = np.sin(2 * np.pi * rng.uniform(50, 120) * t) * np.exp(-t * 8)
    return np.asarray(wave / np.sqrt(np.mean(wave**2)))


def wind(seconds: float, rng: np.random.Generator) -> Rows:
    """Noise whose low frequencies are the loudest, with root mean square 0.03."""
    spectrum = np.fft.rfft(rng.normal(size=int(seconds * RATE)))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    wave = np.fft.irfft(spectrum, int(seconds * RATE))
    return np.asarray(0.03 * wave / wave.std())


def loudness(rng: np.random.Generator) -> float:
    """A signal-to-noise ratio of 0 to 20 dB as a factor."""
    return float(0.03 * 10 ** (rng.uniform(0, 20) / 20))


def recording(seconds: float, rng: np.random.Generator) -> tuple[Rows, list[Label]]:
    """Wind with a call or another sound every four seconds, and the calls."""
    wave, truth = wind(seconds, rng), []
    for place in np.arange(2, seconds - 5, 4):
        start = place + rng.uniform(0, 1.5)
        kind = int(rng.integers(5)) if rng.random() < 0.5 else None
        sound = loudness(rng) * (other(rng) if kind is None else call(kind, rng))
        wave[int(start * RATE) :][: len(sound)] += sound
        if kind is not None:
            truth.append(Label("a", start, start + len(sound) / RATE, f"call {kind}"))
    return wave, truth


def examples(rng: np.random.Generator, background: bool) -> tuple[list[tuple[Rows, int]], list[str]]:
    """Five clips a class of 1.2 s, at 0 to 20 dB as in the recordings."""
    clips, labels = [], []
    for kind in range(6 if background else 5):
        for _ in range(5):
            wave = wind(1.2, rng)
            sound = loudness(rng) * (call(kind, rng) if kind < 5 else other(rng))[: len(wave)]
            wave[: len(sound)] += sound
            clips.append((wave.astype(np.float32), RATE))
            labels.append(f"call {kind}" if kind < 5 else "background")
    return clips, labels


def scored(events: Sequence[Label], truth: Sequence[Label]) -> tuple[int, int, int, int]:
    """Events, those that overlap a call of their class, calls, and those that an event of their class overlaps."""

    def meet(a: Label, b: Label) -> bool:
        return a.label == b.label and a.start < b.end and b.start < a.end  # type: ignore[operator]

    hits = sum(any(meet(event, x) for x in truth) for event in events)
    return len(events), hits, len(truth), sum(any(meet(event, x) for event in events) for x in truth)


def by_hand(rows: Rows, labels: list[str], windows: Rows, spans: Rows) -> list[Label]:
    """What 0.2 had: windows, concat, logistic regression, threshold 0.5; neighbours joined all the same."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    model = LogisticRegression(max_iter=1000).fit(unit(rows), labels)
    order = sorted(range(len(model.classes_)), key=lambda i: model.classes_[i] == "background")
    names = tuple(name for name in sorted(model.classes_) if name != "background")
    return find_events("a", model.predict_proba(unit(windows))[:, order], spans, names, EventConfig())


def events(minutes: float, repeats: int, seed: int) -> dict[str, tuple[float, float]]:
    """Precision and recall in percent of each way, over all repeats."""
    total: dict[str, Rows] = defaultdict(lambda: np.zeros(4))
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        wave, truth = recording(60 * minutes, rng)
        windows, spans = mtslvr.embed_windows(wave.astype(np.float32), RATE, window_seconds=1.2, hop_seconds=0.6)
        for background in (True, False):
            clips, labels = examples(rng, background)
            rows = mtslvr.embed(clips, window_seconds=1.2)
            zeros = np.zeros(len(labels))
            settings = {"features": "concat", "layer": "head"}
            names = tuple(map(str, range(len(labels))))
            made = Classifier.fit(EmbeddingTable(rows, names, zeros, zeros, settings), labels)
            told = "with background examples" if background else "without"
            found = find_events("a", made.probabilities(windows), spans, made.positive, EventConfig())
            total[f"mtslvr classify, {told}"] += scored(found, truth)
            total[f"0.2 by hand, {told}"] += scored(by_hand(rows, labels, windows, spans), truth)
    return {name: (100 * n[1] / max(n[0], 1), 100 * n[3] / n[2]) for name, n in total.items()}


def stored_speed() -> tuple[int, float]:
    """Windows in 10 hours at a hop of 0.5 s, and the seconds in which `mtslvr classify` labels them from an npy."""
    hours, minutes = 10, 2
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clips, labels = examples(rng, background=True)
        for i, ((wave, rate), label) in enumerate(zip(clips, labels, strict=True)):
            (root / "calls" / label).mkdir(parents=True, exist_ok=True)
            soundfile.write(root / "calls" / label / f"{i}.wav", wave, rate)
        soundfile.write(root / "part.wav", recording(60 * minutes, rng)[0], RATE)
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
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eval", action="append", default=[], metavar="NAME=FOLDER[:FIELD]")
    parser.add_argument("--cache", type=Path, help="folder that keeps the embeddings of the sets")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=10.0, help="of a synthetic recording")
    parser.add_argument("--repeats", type=int, default=3, help="of the synthetic recordings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines, answers = [], defaultdict(list)
    for given in args.eval:
        name, _, folder = given.partition("=")
        folder, _, field = folder.partition(":")
        rows, labels = embedded(folder, int(field) if field else None, args.cache)
        for shots in SHOTS:
            got, scored_answers = measured(rows, labels, shots, args.episodes, args.seed)
            answers[shots].append(scored_answers)
            lines.append([name, str(shots), *(f"{got[m][0]:.1f} ± {got[m][1]:.1f}" for m in METHODS)])
            print(*lines[-1], flush=True)
    worth = [calibration(shots, np.concatenate(answers[shots])) for shots in answers]
    found = events(args.minutes, args.repeats, args.seed)
    count, seconds = stored_speed()
    machine = ", ".join(f"{name} {value}" for name, value in environment().items())
    machine += f", scikit-learn {metadata.version('scikit-learn')}, {torch.get_num_threads()} threads"
    text = f"""# Classification from a few examples

Written by `python benchmarks/classify.py`; seed {args.seed}, the bundled weights.

{machine}.

## Features chosen by the examples

{WAYS} classes an episode, {args.episodes} episodes, up to 15 queries a class. Percent correct, with half the 95%
interval over clips. *chosen* is what cross-validation on the supports alone takes of five mixtures of invariant and
variant.

{table(["set", "examples a class", *METHODS], lines)}
## What a score is worth

The answers of all these episodes by the chosen features. *Error* is the mean distance of scores from the share of right
answers, over ten bins of equal width; *uncalibrated*, the same of the classifier's own probabilities. With one example
a class nothing can be measured, and the temperature is the usual one.

{table(["examples a class", "mean score", "right", "error", "uncalibrated", "scores from 90", "of these right"], worth)}
## Events

{args.repeats} recordings of {args.minutes:g} minutes: five synthetic calls of 0.6 to 1.2 s at 0 to 20 dB over wind, as
many other sounds (bursts, clicks, hum, thuds). Five examples a class at the same loudness, windows of 1.2 s every
0.6 s, threshold 0.5. An event is right where it overlaps a call of its class. *By hand* is scikit-learn's logistic
regression on concat; *background examples* are five of the other sounds.

{table(["", "precision", "recall"], [[name, f"{p:.1f}", f"{r:.1f}"] for name, (p, r) in found.items()])}
## Speed

`mtslvr classify` labels {count:,} stored windows (10 hours at a hop of 0.5 s, npy) in {seconds:.1f} s, with start, 30
examples embedded and {count:,} rows of 4 kB read. From audio, the time is that of `mtslvr-embed`.
"""
    args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
