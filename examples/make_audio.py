"""Synthesise the example audio: five classes, three takes each, the same at every run.

Usage: python examples/make_audio.py [FOLDER]    (default: examples/audio)
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

FOLDER = Path(__file__).parent / "audio"


def hertz_to_wave(hertz: np.ndarray, rate: int) -> np.ndarray:
    """A sine of changing frequency."""
    return np.sin(2 * np.pi * np.cumsum(hertz) / rate)


def noise(rng: np.random.RandomState, n: int, rate: int, low: float, high: float) -> np.ndarray:
    """Gaussian noise between two frequencies in Hz, RMS 1."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    hertz = np.fft.rfftfreq(n, 1 / rate)
    wave = np.fft.irfft(spectrum * ((hertz >= low) & (hertz <= high)), n)
    return wave / np.sqrt(np.mean(wave**2))


def place(out: np.ndarray, sound: np.ndarray, second: float, rate: int) -> None:
    """Add a sound to `out`, cut where `out` ends."""
    start = int(second * rate)
    piece = out[start : start + len(sound)]
    piece += sound[: len(piece)]


def bird(rng, n, rate, low, high, chirps, length, warble):
    """Phrases of chirps that rise from `low` to `high` Hz, over faint wind."""
    out = 0.01 * noise(rng, n, rate, 50, 900)
    second = 0.1
    while second < n / rate:
        for _ in range(chirps):
            t = np.arange(int(length * rate * rng.uniform(0.8, 1.2))) / rate
            part = t / t[-1]
            sweep = low + (high - low) * part ** rng.uniform(0.5, 2) + warble * np.sin(2 * np.pi * 45 * t)
            place(out, rng.uniform(0.4, 0.8) * np.hanning(len(t)) * hertz_to_wave(sweep, rate), second, rate)
            second += length * rng.uniform(1.1, 1.5)
        second += rng.uniform(0.2, 0.5)
    return out


def machine(rng, n, rate, hum, partials, clicks, hiss):
    """Mains-like hum with partials, hiss that pulses with it, and `clicks` a second."""
    t = np.arange(n) / rate
    wander = hum * (1 + 0.004 * np.sin(2 * np.pi * 0.4 * t))
    out = sum(np.sin(k * np.cumsum(2 * np.pi * wander / rate) + k) / k for k in range(1, partials + 1)) * 0.2
    out = out + hiss * noise(rng, n, rate, 200, 4000) * (1 + 0.5 * np.sin(2 * np.pi * hum / 8 * t))
    for second in np.arange(0.05, n / rate, 1 / clicks):
        click = rng.standard_normal(int(0.02 * rate)) * np.exp(-np.arange(int(0.02 * rate)) / (0.003 * rate))
        place(out, 0.3 * click, second + rng.uniform(0, 0.01), rate)
    return out


def bell(rng, n, rate, pitch, strikes, decay):
    """Strikes of a bell with the inharmonic partials of a church bell."""
    out = np.zeros(n)
    for i in range(strikes):
        second = 0.05 + i * n / rate / strikes
        t = np.arange(n) / rate
        partials = ((0.5, 0.5, 2.0), (1, 0.7, 1.2), (1.19, 0.6, 1.0), (1.5, 0.3, 0.7), (2, 0.8, 0.8), (2.74, 0.4, 0.4),
                    (3, 0.3, 0.35), (4.07, 0.2, 0.2))  # fmt: skip
        struck = sum(a * np.exp(-t / (decay * d)) * np.sin(2 * np.pi * pitch * f * t) for f, a, d in partials)
        place(out, rng.uniform(0.2, 0.3) * struck, second, rate)
    return out


def rain(rng, n, rate, low, high, drops, loud):
    """Hiss with `drops` a second, each a short falling blip."""
    out = 0.08 * noise(rng, n, rate, low, high)
    for second in np.sort(rng.uniform(0, n / rate, int(drops * n / rate))):
        t = np.arange(int(0.015 * rate)) / rate
        blip = hertz_to_wave(rng.uniform(1500, 5000) * np.exp(-t / 0.03), rate) * np.exp(-t / 0.004)
        place(out, loud * rng.uniform(0.2, 1) * blip, second, rate)
    return out


def alarm(rng, n, rate, first, second, period, buzz):
    """Two tones in turn, with `buzz` of their third partial, over room noise."""
    t = np.arange(n) / rate
    place_in_period = t % period / period
    hertz = np.where(place_in_period < 0.5, first, second)
    gate = np.clip(12 * np.minimum(place_in_period % 0.5, 0.5 - place_in_period % 0.5), 0, 1)
    tone = hertz_to_wave(hertz, rate) + buzz * hertz_to_wave(3 * hertz, rate)
    return 0.3 * gate * tone + 0.01 * noise(rng, n, rate, 50, 3000)


# File: (sound, rate in Hz, seconds, channels, the sound's own parameters).
TAKES: dict[str, tuple[Callable[..., np.ndarray], int, float, int, tuple[float, ...]]] = {
    "birds/warbler.flac": (bird, 16000, 3.0, 1, (3200, 5200, 5, 0.09, 250)),
    "birds/finch.ogg": (bird, 16000, 4.0, 1, (4200, 6300, 7, 0.06, 60)),
    "birds/thrush.wav": (bird, 22050, 2.0, 1, (2300, 3600, 3, 0.18, 400)),
    "machine/fan.flac": (machine, 16000, 2.0, 1, (100, 6, 1.5, 0.05)),
    "machine/pump.ogg": (machine, 16000, 6.0, 1, (60, 10, 3, 0.03)),
    "machine/press.mp3": (machine, 22050, 4.0, 1, (50, 14, 5, 0.06)),
    "bells/church.ogg": (bell, 44100, 5.0, 2, (320, 3, 1.2)),
    "bells/hand.flac": (bell, 16000, 3.0, 1, (880, 4, 0.5)),
    "bells/tower.mp3": (bell, 22050, 4.0, 1, (220, 2, 1.6)),
    "rain/drizzle.ogg": (rain, 16000, 4.0, 1, (1500, 7500, 18, 0.5)),
    "rain/downpour.mp3": (rain, 22050, 3.0, 1, (400, 9000, 80, 0.35)),
    "rain/gutter.wav": (rain, 16000, 2.0, 1, (900, 6000, 35, 0.6)),
    "alarm/clock.wav": (alarm, 16000, 2.0, 1, (2000, 2000, 0.25, 0.2)),
    "alarm/siren.flac": (alarm, 16000, 4.0, 1, (650, 870, 1.0, 0.5)),
    "alarm/beeper.ogg": (alarm, 16000, 3.0, 1, (1300, 1700, 0.5, 0.3)),
}


def synthesise(name: str) -> tuple[np.ndarray, int]:
    """One take: samples (n,) or (n, channels), and its rate in Hz."""
    sound, rate, seconds, channels, parameters = TAKES[name]
    # RandomState's numbers are the same in every version of NumPy; the seed differs from take to take.
    rng = np.random.RandomState(1 + list(TAKES).index(name))
    wave = sound(rng, int(seconds * rate), rate, *parameters)
    wave *= 0.7 / np.abs(wave).max()
    if channels == 2:  # the sound stands to the left and reaches the right ear later
        wave = np.stack([wave, 0.6 * np.concatenate([np.zeros(20), wave[:-20]])], axis=1)
    return wave, rate


def make(folder: Path) -> None:
    for name in TAKES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, *synthesise(name))


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
