"""Stored embeddings of windows to the labels of all their recordings, one recording at a time; next: `output`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..audio.recordings import header
from ..errors import ConfigError
from ..run.table import EmbeddingTable
from .classifier import Classifier, Float32
from .events import EventConfig, find_events
from .labels import Label
from .output import Recording, Row

Float64 = npt.NDArray[np.float64]
BINS = 20  # of the histogram of scores
SURE = 0.99  # probability of a class above which a window is not in doubt


class Doubt(NamedTuple):
    """A window whose label would help, with its likeliest class, and the margin between the two likeliest ones."""

    place: Label
    margin: float


@dataclass
class Found:
    """What a classifier says of recordings, in the order of the table."""

    recordings: list[Recording] = field(default_factory=list)
    events: list[Label] = field(default_factory=list)
    # For each recording its likeliest classes over the threshold, and the windows whose label would help most.
    best: list[list[Label]] = field(default_factory=list)
    doubts: list[list[Doubt]] = field(default_factory=list)
    # (20,) of windows by the probability of their likeliest class to be labelled.
    histogram: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))


def predict_table(
    classifier: Classifier,
    table: EmbeddingTable,
    config: EventConfig,
    *,
    path_of: Callable[[str], str],
    only: Collection[str] | None = None,
    reject: bool = True,
    doubts: int = 0,
) -> Found:
    """Classify the windows of a table, as `mtslvr-embed --pool none` writes it, or of the recordings `only`.

    The table is made with the classifier's settings, and has the windows of a recording one after the other; else, or
    where they are no numbers, it is refused. `path_of` gives the path of a recording by its name in the table, `doubts`
    is how many windows to suggest for labelling; `reject`: see `Classifier.probabilities`.
    """
    found, spans = Found(), np.stack([table.start, table.end], axis=1)
    rate = (table.settings.get("encoder") or {}).get("frontend", {}).get("sample_rate", 16_000)
    channel, first, seen = table.settings.get("channel", "mix"), 0, set[str]()
    for name, group in itertools.groupby(table.paths):
        last = first + sum(1 for _ in group)
        part, first = slice(first, last), last
        if only is not None and name not in only:
            continue
        if name in seen or (np.diff(table.start[part]) < 0).any():
            raise ConfigError(f"{name}: its windows do not follow each other in the table by start; embed it again")
        seen.add(name)
        probabilities, near = classifier.judge(table.embeddings[part], name)
        shown = probabilities * near if reject else probabilities
        positive = len(classifier.positive)
        seconds, own_rate = header(path := path_of(name))  # zeros where it is not here, or read by ffmpeg
        seconds = max(seconds, float(spans[part, 1].max()))
        found.recordings.append(Recording(name, path, seconds, own_rate or rate, channel))
        found.events += find_events(name, shown, spans[part], classifier.positive, config)
        found.best.append(_best(name, shown[:, :positive].max(axis=0), classifier.positive, config))
        found.doubts.append(list(_doubts(name, probabilities, spans[part], classifier.classes, doubts)))
        found.histogram += np.histogram(shown[:, :positive].max(axis=1), BINS, (0, 1))[0]
    return found


def _best(name: str, scores: Float32, classes: Sequence[str], config: EventConfig) -> list[Label]:
    first = np.argsort(-scores, kind="stable")[: config.top_k]
    counted = [i for i in first if scores[i] >= config.threshold and scores[i] > 0]
    return [Label(name, None, None, classes[i], float(scores[i])) for i in counted]


def _doubts(name: str, probabilities: Float32, spans: Float64, classes: Sequence[str], count: int) -> Iterator[Doubt]:
    """The windows in doubt with the smallest margins, none over another, silence left out."""
    ordered = np.sort(probabilities, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    taken: list[tuple[float, float]] = []
    doubtful = (ordered[:, -1] > 0) & (ordered[:, -1] <= SURE)
    for row in np.argsort(np.where(doubtful, margins, np.inf), kind="stable"):
        if len(taken) == count or not doubtful[row]:
            return
        start, end = map(float, spans[row])
        if all(end <= before or start >= after for before, after in taken):
            taken.append((start, end))
            guess = int(probabilities[row].argmax())
            label = Label(name, start, end, classes[guess], float(probabilities[row, guess]))
            yield Doubt(label, float(margins[row]))


def spread(doubts: Iterable[Sequence[Doubt]], count: int) -> list[Label]:
    """The `count` windows to label: the first of each recording, then the second of each, the least certain first."""
    ranked = [(turn, margin, place) for mine in doubts for turn, (place, margin) in enumerate(mine)]
    return [place for *_, place in sorted(ranked, key=lambda entry: entry[:2])[:count]]


def file_rows(found: Found, top_k: int) -> tuple[list[Row], tuple[str, ...]]:
    """A row a recording with its best classes, those after the first in label_2, score_2 ...; and all columns."""
    numbers = ["", *(f"_{i}" for i in range(2, top_k + 1))]
    columns = ("file", "start", "end", *(f"{name}{n}" for n in numbers for name in ("label", "score")))
    rows = []
    for recording, best in zip(found.recordings, found.best, strict=True):
        row: Row = dict.fromkeys(columns) | {"file": recording.name, "start": 0.0, "end": round(recording.seconds, 3)}
        for number, label in zip(numbers, best, strict=False):
            row |= {f"label{number}": label.label, f"score{number}": round(label.score, 4)}
        rows.append(row)
    return rows, columns
