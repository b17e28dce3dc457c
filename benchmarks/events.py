"""Recordings whose calls are known, made for `classify.py`: synthetic, or of clips, and what is found in them."""

from __future__ import annotations

import itertools
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from sklearn.linear_model import LogisticRegression

import mtslvr
from mtslvr.classify import Classifier, EventConfig, Examples, Label, find_events
from mtslvr.classify.classifier import fit_examples
from mtslvr.classify.examples import collect

RATE = 16_000
EXAMPLES = 5  # a class
CLASSES = 3  # of clips in a recording
THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 10))
LONGEST = 2.0  # seconds of a sound, which start every four seconds
Wave = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Scene:
    """A recording, its calls, and examples of them and of other sounds, the label `background`."""

    wave: Wave
    truth: list[Label]
    examples: list[tuple[Wave, str]]


def scene(classes: Sequence[str], sound: Callable[[str], Wave], minutes: float, rng: np.random.Generator) -> Scene:
    """Wind with a sound every four seconds at 0 to 20 dB, half of them calls, and examples.

    Examples are clear ones, from 10 dB on, cut out; of the background's, one is wind alone.

    Args:
        classes: of the calls.
        sound: gives another sound of a class, or of `background`, each time.
        minutes: length of the recording.
        rng: for all that is drawn.
    """
    examples = []
    for label in (*classes, "background"):
        for i in range(EXAMPLES):
            made = loudness(rng, 10) * sound(label) * (i > 0 or label != "background")
            examples.append(((wind(len(made), rng) + made).astype(np.float32), label))
    wave, truth = wind(round(60 * minutes * RATE), rng), []
    for place in np.arange(2, 60 * minutes - 5, 4):
        start = place + rng.uniform(0, 1.5)
        label = str(rng.choice(classes)) if rng.random() < 0.5 else "background"
        made = loudness(rng) * sound(label)
        wave[int(start * RATE) :][: len(made)] += made
        if label != "background":
            truth.append(Label("a", start, start + len(made) / RATE, label))
    return Scene(wave.astype(np.float32), truth, examples)


def wind(samples: int, rng: np.random.Generator) -> Wave:
    """Noise whose low frequencies are the loudest, with root mean square 0.03."""
    spectrum = np.fft.rfft(rng.normal(size=samples))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    return 0.03 * unit(np.fft.irfft(spectrum, samples))


def loudness(rng: np.random.Generator, least: float = 0) -> float:
    """A signal-to-noise ratio of `least` to 20 dB as a factor."""
    return float(0.03 * 10 ** (rng.uniform(least, 20) / 20))


def unit(wave: Wave) -> Wave:
    """The wave with root mean square 1."""
    return np.asarray(wave / np.sqrt(np.mean(wave**2)))


def synthetic(minutes: float, rng: np.random.Generator) -> Scene:
    """Five synthetic calls among bursts, clicks, hum and thuds."""
    classes = [f"call {kind}" for kind in range(5)]
    made = lambda label: other(rng) if label == "background" else call(classes.index(label), rng)  # noqa: E731
    return scene(classes, made, minutes, rng)


def call(kind: int, rng: np.random.Generator) -> Wave:
    """One of five calls, of 0.6 to 1.2 s, each time a little different, with root mean square 1."""
    t = np.arange(int(rng.uniform(0.6, 1.2) * RATE)) / RATE
    pitch = rng.uniform(0.9, 1.1)
    phase = 2 * np.pi * pitch * t
    waves: list[Callable[[], Wave]] = [
        lambda: np.sin(phase * (1500 + 1000 * t)),  # rises
        lambda: np.sin(phase * (4000 - 1000 * t)),  # falls
        lambda: np.sin(phase * 3000) * (np.sin(2 * np.pi * 12 * t) > 0),  # a trill
        lambda: sum(np.sin(phase * 400 * k) / k for k in range(1, 9)),  # a harmonic hoot
        lambda: np.sin(phase * 2000 + 8 * np.sin(2 * np.pi * 25 * t)),  # a warble
    ]
    return unit(waves[kind]() * np.hanning(len(t)))


def other(rng: np.random.Generator) -> Wave:
    """A sound that is none of the calls: a burst of noise, a click train, a steady hum or a door's thud."""
    t = np.arange(int(rng.uniform(0.3, LONGEST) * RATE)) / RATE
    kind = rng.integers(4)
    noise = rng.normal(size=len(t))
    if kind == 0:
        return unit(noise)
    if kind == 1:
        return unit(0.05 * noise + noise * (np.sin(2 * np.pi * rng.uniform(4, 20) * t) > 0.97))
    if kind == 2:
        hum = np.sin(2 * np.pi * rng.uniform(80, 200) * t)
        return unit(hum + 0.3 * np.sin(2 * np.pi * rng.uniform(300, 900) * t))
    return unit(np.sin(2 * np.pi * rng.uniform(50, 120) * t) * np.exp(-t * 8))


def of_clips(
    clips: Mapping[str, Sequence[Path]], elsewhere: Sequence[Path], minutes: float, rng: np.random.Generator
) -> Scene:
    """Three classes of a set are the calls; the other sounds are of its other classes and from elsewhere, in turn."""
    classes = [str(name) for name in rng.choice(sorted(clips), CLASSES, replace=False)]
    sources = {name: in_turn(clips[name], rng) for name in classes}
    rest = [path for name in sorted(clips) if name not in classes for path in clips[name]]
    near, far = in_turn(rest, rng), in_turn(elsewhere, rng)
    sources["background"] = itertools.chain.from_iterable(zip(near, far, strict=False))
    return scene(classes, lambda label: unit(loudest(next(sources[label]))), minutes, rng)


def in_turn(paths: Sequence[Path], rng: np.random.Generator) -> Iterator[Path]:
    """The clips in random order, the first of them, the examples, once, the others again and again."""
    order = [paths[i] for i in rng.permutation(len(paths))]
    return itertools.chain(order[:EXAMPLES], itertools.cycle(order[EXAMPLES:]))


def loudest(path: Path) -> Wave:
    """The two seconds of a clip with the most energy."""
    wave, rate = soundfile.read(path, always_2d=True)
    wave = np.asarray(soxr.resample(wave.mean(axis=1), rate, RATE))
    samples = int(LONGEST * RATE)
    if len(wave) <= samples:
        return wave
    energy = np.cumsum(np.square(wave, dtype=np.float64))
    return wave[int(np.argmax(energy[samples:] - energy[:-samples])) :][:samples]


def write_examples(made: Scene, folder: Path) -> None:
    """A folder a class."""
    for i, (wave, label) in enumerate(made.examples):
        (folder / label).mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / label / f"{i}.wav", wave, RATE, "FLOAT")


def embedded(made: Scene) -> tuple[Examples, Wave, Wave]:
    """The examples as `mtslvr classify` takes them from class folders, and windows and spans of the recording."""
    with tempfile.TemporaryDirectory() as folder:
        write_examples(made, Path(folder))
        examples = collect(folder, None, None, None, None, "auto")
    options = {name: examples.settings[name] for name in ("window_seconds", "hop_seconds")}
    return examples, *mtslvr.embed_windows(made.wave, RATE, **options)


def ways(examples: Examples, windows: Wave) -> Iterator[tuple[str, Wave, tuple[str, ...]]]:
    """For each way its name, the probabilities of windows, and the classes to be labelled."""
    for told in ("with background examples", "without"):
        if told == "without":
            kept = [i for i, label in enumerate(examples.labels) if label != "background"]
            named = {key: [getattr(examples, key)[i] for i in kept] for key in ("labels", "recordings", "names")}
            examples = replace(examples, embeddings=examples.embeddings[kept], **named)
        made = fit_examples(examples)
        yield f"mtslvr classify, {told}", made.probabilities(windows), made.positive
        yield f"0.2 by hand, {told}", by_hand(examples, made, windows), made.positive


def by_hand(examples: Examples, made: Classifier, windows: Wave) -> Wave:
    """What 0.2 had: scikit-learn's logistic regression on concat, the columns in the order of the other's."""
    rows, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (examples.embeddings, windows))
    model = LogisticRegression(max_iter=1000).fit(rows, examples.labels)
    return np.asarray(model.predict_proba(queries)[:, [list(model.classes_).index(name) for name in made.classes]])


def counts(events: Sequence[Label], truth: Sequence[Label]) -> Wave:
    """Events, those that overlap a call of their class, calls, and those that an event of their class overlaps."""

    def meet(a: Label, b: Label) -> bool:
        return a.label == b.label and a.start < b.end and b.start < a.end  # type: ignore[operator]

    hits = sum(any(meet(event, x) for x in truth) for event in events)
    return np.array([len(events), hits, len(truth), sum(any(meet(event, x) for event in events) for x in truth)])


def found_events(scenes: Iterable[Scene]) -> dict[str, dict[float, Wave]]:
    """Of each way and threshold the counts of events and calls, over all scenes."""
    total: dict[str, dict[float, Wave]] = defaultdict(lambda: defaultdict(lambda: np.zeros(4)))
    for made in scenes:
        examples, windows, spans = embedded(made)
        for name, probabilities, classes in ways(examples, windows):
            for threshold in THRESHOLDS:
                events = find_events("a", probabilities, spans, classes, EventConfig(threshold))
                total[name][threshold] += counts(events, made.truth)
    return total


def percentages(found: Wave) -> tuple[float, float, float]:
    """Precision, recall and F1 of counts."""
    precision, recall = found[1] / max(found[0], 1), found[3] / max(found[2], 1)
    return 100 * precision, 100 * recall, 200 * precision * recall / max(precision + recall, 1e-9)
