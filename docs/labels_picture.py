"""Draws docs/labels.jpg: half a minute of synthetic recording, its calls and what a classifier of five examples finds.

Run from the repository root: python docs/labels_picture.py. Needs matplotlib and scikit-learn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mtslvr.classify import EventConfig, find_events
from mtslvr.classify.classifier import fit_examples

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from events import RATE, embedded, synthetic  # noqa: E402


def main() -> None:
    """Make the audio, find the calls, draw."""
    rng = np.random.default_rng(6)
    made = synthetic(0.6, rng)
    rows, windows, spans = embedded(made)
    classifier = fit_examples(rows)
    events = find_events("a", classifier.probabilities(windows), spans, classifier.positive, EventConfig())
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.specgram(made.wave, NFFT=1024, Fs=RATE, noverlap=0, cmap="Greys", vmin=-82, vmax=-45, rasterized=True)
    for call in made.truth:
        axes.plot([call.start, call.end], [7600, 7600], color="#D55E00", linewidth=3, solid_capstyle="butt")
    for i, event in enumerate(events):
        axes.axvspan(event.start, event.end, color="#0072B2", alpha=0.18, linewidth=0)
        axes.text(event.start, 6700 - 700 * (i % 2), f"{event.label} {event.score:.2f}", fontsize=6.5, color="#004a73")
    axes.set(xlabel="seconds", ylabel="Hz", xlim=(0, 36), ylim=(0, 8000))
    figure.savefig(HERE / "labels.jpg", dpi=110, pil_kwargs={"quality": 70})


if __name__ == "__main__":
    main()
