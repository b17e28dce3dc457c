"""From five examples a class to labels with times: three synthetic calls in ten minutes of noise, found again."""

import tempfile
from pathlib import Path

import numpy as np
import soundfile

import mtslvr

RATE = 16000
CLASSES = ("chirp", "trill", "buzz")
rng = np.random.default_rng(0)


def call(name: str) -> np.ndarray:
    """A call of about a second, each a little different."""
    t = np.arange(int(rng.uniform(0.8, 1.2) * RATE)) / RATE
    pitch = rng.uniform(0.9, 1.1)
    if name == "chirp":  # rises from 2 to 4 kHz
        wave = np.sin(2 * np.pi * pitch * (2000 * t + 1000 * t**2))
    elif name == "trill":  # 3 kHz, twelve beats a second
        wave = np.sin(2 * np.pi * 3000 * pitch * t) * (np.sin(2 * np.pi * 12 * t) > 0)
    else:  # a rough tone of 400 Hz
        wave = np.sign(np.sin(2 * np.pi * 400 * pitch * t)) * (0.6 + 0.4 * np.sin(2 * np.pi * 60 * t))
    return wave * np.hanning(len(t)) * rng.uniform(0.1, 0.3)


def noise(seconds: float) -> np.ndarray:
    """Wind, more or less: noise whose low frequencies are the loudest."""
    spectrum = np.fft.rfft(rng.normal(size=int(seconds * RATE)))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    wave = np.fft.irfft(spectrum, int(seconds * RATE))
    return 0.05 * wave / wave.std()


with tempfile.TemporaryDirectory() as folder:
    examples = Path(folder) / "examples"
    for name in (*CLASSES, "background"):
        (examples / name).mkdir(parents=True)
        for i in range(5):
            wave = noise(1.5)
            if name != "background":
                made = call(name)
                wave[: len(made)] += made
            soundfile.write(examples / name / f"{i}.wav", wave, RATE)

    recording, truth = noise(600), []
    for start in np.arange(5, 590, 10) + rng.uniform(0, 5, 59):
        name = CLASSES[rng.integers(3)]
        made = call(name)
        recording[int(start * RATE) :][: len(made)] += made
        truth.append((start, start + len(made) / RATE, name))
    soundfile.write(Path(folder) / "night.wav", recording, RATE)

    classifier = mtslvr.Classifier.fit(examples)
    print(f"features: {classifier.figures['features']} ({classifier.figures['reason']})")
    events = classifier.predict_windows(Path(folder) / "night.wav")

for event in events[:5]:
    print(f"{event.start:6.1f} to {event.end:6.1f} s  {event.label:6}  {event.score:.2f}")
hits = [any(e.label == name and e.start < end and e.end > start for start, end, name in truth) for e in events]
found = [any(e.label == name and e.start < end and e.end > start for e in events) for start, end, name in truth]
print(f"{len(events)} events: precision {np.mean(hits):.2f}, recall {np.mean(found):.2f} of {len(truth)} calls")
