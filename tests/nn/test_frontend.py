import math

import fill_rule
import numpy as np
import pytest
import torch

from mtslvr.config import EncoderConfig, FrontendConfig, Phase
from mtslvr.nn.encoder import Encoder
from mtslvr.nn.frontend import Frontend, log_mel, mel_filterbank

DECIBEL, RADIAN = 1e-3, 1e-3
CLIPS = ["w5@5s", "w1@5s", "w3p2@5s", "w10@5s", "w10@whole", "w12p3@5s", "w12p3@whole"]
PUBLISHED, OURS = FrontendConfig(), FrontendConfig(epsilon=1e-3, phase=Phase.STABLE)
OTHER = FrontendConfig(sample_rate=8000, n_fft=256, hop_length=100, n_mels=20, f_min=60, f_max=3500, epsilon=1e-6)


@pytest.fixture(scope="module")
def frontend():
    return Frontend(PUBLISHED)


def noise(batch, length, seed=0, dtype=torch.float32):
    return torch.randn(batch, length, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def circular(difference):
    """Radians brought to (-pi, pi]."""
    return np.angle(np.exp(1j * np.asarray(difference, np.float64)))


def reference_spectrogram(waveform, config):
    """The published front end in float64 NumPy, written from its description, with a loop over frames and filters."""
    n, hop = config.n_fft, config.hop_length
    padded = np.pad(waveform.astype(np.float64), n // 2, mode="reflect")
    frames = np.stack([padded[i * hop : i * hop + n] for i in range(1 + len(waveform) // hop)])
    hertz = np.linspace(0, config.sample_rate / 2, 1 + n // 2)
    top = 2595 * math.log10(1 + config.f_max / 700)
    low = 2595 * math.log10(1 + config.f_min / 700)
    corners = 700 * (10 ** (np.linspace(low, top, config.n_mels + 2) / 2595) - 1)
    filters = [np.interp(hertz, corners[i : i + 3], [0, 1, 0], left=0, right=0) for i in range(config.n_mels)]
    mel = np.stack(filters, axis=1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2 @ mel
    spectrum = np.fft.rfft(frames)
    real, imaginary = spectrum.real @ mel, spectrum.imag @ mel
    magnitude, phase = np.hypot(real, imaginary), np.arctan2(imaginary, real)
    if config.phase is Phase.STABLE:
        phase *= magnitude / (magnitude + config.epsilon)
        phase[0] = 0
    channels = [10 * np.log10(power + config.epsilon), 10 * np.log10(magnitude + config.epsilon), phase]
    return np.stack(channels).transpose(0, 2, 1)


def test_filterbank_equals_golden_and_groups_of_bins_a_whole_product(golden):
    filters = mel_filterbank(PUBLISHED).double().numpy()
    assert filters.shape == (513, 128)
    np.testing.assert_allclose(filters.sum(0), golden["melfb/sum_per_filter"], atol=1e-5)
    np.testing.assert_allclose(filters.sum(1), golden["melfb/sum_per_bin"], atol=1e-6)
    config = FrontendConfig(n_fft=64, n_mels=64)  # most filters lie between two bins and are empty
    bins = noise(33, 3, dtype=torch.float64)
    expected = mel_filterbank(config).double().T @ bins
    torch.testing.assert_close(Frontend(config).project(bins), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["raw", "sample", "global"])
@pytest.mark.parametrize("clip", CLIPS)
def test_spectrogram_equals_golden(golden, pieces, frontend, clip, norm):
    key = f"spec/{clip}/{norm}/"
    found = frontend(pieces(clip, norm)).numpy()
    assert found.shape == tuple(golden[key + "shape"])
    piece, mel, frame = golden[key + "index"].T
    values, expected = found[piece, :, mel, frame].T, golden[key + "values"]
    if key + "full" in golden:
        values, expected, frame = found[0], golden[key + "full"], np.arange(157)
    np.testing.assert_allclose(values[:2], expected[:2], rtol=0, atol=DECIBEL)
    assert np.abs(circular(values[2] - expected[2]))[..., frame > 0].max() <= RADIAN
    if norm == "sample":  # the phase of frame 0 is ours up to the sign of pi
        first = found[:, 2, :, 0]
        assert np.abs(circular(first - golden[key + "phase_frame0"])).max() <= 1e-2
        assert np.minimum(np.abs(first), np.pi - np.abs(first)).max() <= 1e-2
    for channel in (0, 1):
        x = found[:, channel].astype(np.float64)
        mean, std, least, most = golden[key + "stats"][channel]
        np.testing.assert_allclose([x.mean(), x.std(ddof=1), x.max()], [mean, std, most], rtol=0, atol=DECIBEL)
        # The least magnitude is what is left where positive and negative bins cancel.
        assert abs(x.min() - least) <= 10 * DECIBEL


@pytest.mark.parametrize("config", [PUBLISHED, OURS, OTHER], ids=["published", "ours", "8kHz"])
def test_float64_equals_reference(config):
    waveform = noise(1, 7001, dtype=torch.float64)
    found = Frontend(config)(waveform)[0].numpy()
    expected = reference_spectrogram(waveform[0].numpy(), config)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=DECIBEL)
    # As complex numbers, for where bins cancel decibels and radians magnify the float32 rounding of the filters.
    ours, theirs = (10 ** (x[1] / 10) * np.exp(1j * x[2]) for x in (found, expected))
    assert np.abs(ours - theirs).max() <= 3e-5 * np.abs(theirs).max()


def test_a_row_is_the_same_in_every_batch_and_in_float32_at_least(frontend):
    waveforms = noise(17, 16000)
    together = frontend(waveforms)
    alone = torch.cat([frontend(row[None]) for row in waveforms])
    torch.testing.assert_close(together[:, :2], alone[:, :2], rtol=0, atol=1e-4)
    one = Frontend(FrontendConfig(channels=1))(waveforms)
    assert torch.equal(one, together[:, :1]) and torch.equal(log_mel(waveforms, PUBLISHED), one[:, 0])
    assert np.abs(circular(together[:, 2] - alone[:, 2])).max() <= 1e-4
    assert frontend(waveforms[:0]).shape == (0, 3, 128, 32)
    x = waveforms[:1].to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = frontend(x)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, frontend(x.float()), rtol=0, atol=0)


def test_stable_phase_survives_another_fft(randomize):
    signals = noise(5, 16000, seed=3)
    signals[0] = torch.from_numpy(fill_rule.wave("w1"))
    signals[1, 6000:] = 0  # sound, then silence
    signals[2:4] = 0
    signals[2, 8000] = 1  # one click
    # Tones on STFT bins: all other bins hold rounding noise, which epsilon bounds but does not remove.
    tones = [torch.sin(2 * torch.pi * hertz * torch.arange(16000) / 16000) for hertz in (1000, 4000, 15.625)]
    waveforms = torch.cat([signals, torch.stack(tones)])
    waveforms = (waveforms - waveforms.mean(1, keepdim=True)) / waveforms.std(1, keepdim=True).clamp_min(1e-12)
    torch.manual_seed(0)
    encoder = randomize(Encoder(EncoderConfig(frontend=OURS))).fold()
    other = torch.from_numpy(np.stack([reference_spectrogram(row.numpy(), OURS) for row in waveforms])).float()
    assert torch.count_nonzero(other[:, 2, :, 0]) == 0
    with torch.inference_mode():
        found, expected = encoder.encode(waveforms).concat, encoder.encode_spectrogram(other).concat
    error = (found - expected).abs().amax(1) / expected.abs().amax(1)
    assert error[:5].max() <= 1e-4 and error[5:].max() <= 1e-3, error


@pytest.mark.parametrize("config", [PUBLISHED, OURS], ids=["published", "ours"])
def test_silence_is_finite(config):
    spectrogram = Frontend(config)(torch.zeros(2, 16000))
    torch.testing.assert_close(spectrogram[:, 2], torch.zeros(2, 128, 32))
    floor = torch.full((2, 2, 128, 32), 10 * math.log10(config.epsilon))
    torch.testing.assert_close(spectrogram[:, :2], floor, rtol=1e-6, atol=0)
