"""Draws docs/labels.jpg: half a minute of synthetic recording, its calls and what a classifier of five examples finds.

Run from the repository root: python docs/labels_picture.py. Needs matplotlib and scikit-learn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import mtslvr
from mtslvr.classify import Classifier, EventConfig, find_events
from mtslvr.run.table import EmbeddingTable

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from classify import RATE, examples, recording  # noqa: E402


def main() -> None:
    """Make the audio, find the calls, draw."""
    rng = np.random.default_rng(3)
    wave, truth = recording(36, rng)
    clips, labels = examples(rng, background=True)
    zeros = np.zeros(len(labels))
    rows = EmbeddingTable(
        mtslvr.embed(clips, window_seconds=1.2),
        tuple(map(str, range(len(labels)))),
        zeros,
        zeros,
        {"features": "concat"},
    )
    made = Classifier.fit(rows, labels)
    windows, spans = mtslvr.embed_windows(wave.astype(np.float32), RATE, window_seconds=1.2, hop_seconds=0.6)
    events = find_events("a", made.probabilities(windows), spans, made.positive, EventConfig())
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.specgram(wave, NFFT=1024, Fs=RATE, noverlap=0, cmap="Greys", vmin=-82, vmax=-45, rasterized=True)
    for call in truth:
        axes.plot([call.start, call.end], [7600, 7600], color="#D55E00", linewidth=3, solid_capstyle="butt")
    for i, event in enumerate(events):
        axes.axvspan(event.start, event.end, color="#0072B2", alpha=0.18, linewidth=0)
        axes.text(event.start, 6700 - 700 * (i % 2), f"{event.label} {event.score:.2f}", fontsize=6.5, color="#004a73")
    axes.set(xlabel="seconds", ylabel="Hz", xlim=(0, 36), ylim=(0, 8000))
    figure.savefig(HERE / "labels.jpg", dpi=110, pil_kwargs={"quality": 70})


if __name__ == "__main__":
    main()
