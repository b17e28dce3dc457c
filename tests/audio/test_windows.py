import math

import fill_rule
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtslvr.audio.windows import (
    Pool,
    iter_windows,
    moments,
    normalize,
    pool_windows,
    slice_windows,
    window_length,
    window_starts,
)
from mtslvr.config import Normalization
from mtslvr.errors import AudioError, ConfigError

GOLDEN_MEAN, GOLDEN_STD = -0.00029522, 0.11652075
WAVES = ["w5", "w1", "w3p2", "w10", "w12p3"]


@pytest.fixture(scope="module")
def golden():
    return np.load(fill_rule.GOLDEN / "golden_embeddings.npz")


def slow_starts(length, window_seconds, hop_seconds, sample_rate):
    starts, i = [], 0
    while True:
        start = round(i * hop_seconds * sample_rate)
        if start >= length:
            return starts
        starts.append(start)
        if start + round(window_seconds * sample_rate) >= length:
            return starts
        i += 1


@pytest.mark.parametrize(
    ("length", "window", "hop", "starts"),
    [
        (0, 1, 1, []),
        (1, 1, 1, [0]),
        (10, 1, 1, [0]),
        (11, 1, 1, [0, 10]),
        (20, 1, 1, [0, 10]),
        (21, 1, 1, [0, 10, 20]),
        (20, 1, 0.5, [0, 5, 10]),
        (21, 1, 0.5, [0, 5, 10, 15]),
        (9, 1, 0.1, [0]),
        (30, 1, 2, [0, 20]),
        (15, 1, 2, [0]),
        (21, 1, 2, [0, 20]),
        (20, 0.3, 0.25, [0, 2, 5, 8, 10, 12, 15, 18]),
    ],
)
def test_starts_by_hand_at_10_hz(length, window, hop, starts):
    found = window_starts(length, window, hop, 10)
    assert found.dtype == np.int64
    assert found.tolist() == starts


def test_starts_do_not_accumulate_rounding():
    starts = window_starts(44100 * 3600, 0.1, 0.33333, 44100)
    assert starts[10000] == round(10000 * 0.33333 * 44100) != 10000 * round(0.33333 * 44100)


@given(st.integers(0, 400), st.floats(0.1, 5), st.floats(0.1, 5))
def test_starts_equal_the_loop(length, window, hop):
    assert window_starts(length, window, hop, 10).tolist() == slow_starts(length, window, hop, 10)


@pytest.mark.parametrize("length", [1, 3, 7, 8, 9, 16, 23, 24, 25])
def test_hop_of_one_window_equals_torch_split_with_circular_tail(length):
    waveform = np.arange(1, length + 1, dtype=np.float32)
    windows, spans = slice_windows(waveform, 0.8, 0.8, 10)
    pieces = torch.from_numpy(waveform).split(8)
    assert windows.shape == (len(pieces), 8) and windows.dtype == np.float32 and spans.shape == (len(pieces), 2)
    for window, piece in zip(windows, pieces, strict=True):
        np.testing.assert_array_equal(window, piece.repeat(8)[:8])
    np.testing.assert_allclose(spans[:, 0], np.arange(len(pieces)) * 0.8)
    assert spans[-1, 1] == length / 10


def test_partial_window_repeats_its_own_piece():
    windows, spans = slice_windows(np.arange(7, dtype=np.float32), 0.5, 0.4, 10)
    np.testing.assert_array_equal(windows, [[0, 1, 2, 3, 4], [4, 5, 6, 4, 5]])
    np.testing.assert_allclose(spans, [[0, 0.5], [0.4, 0.7]])


def test_no_samples_give_no_windows():
    windows, spans = slice_windows(np.empty(0, np.float32), 0.5, 0.5, 10)
    assert windows.shape == (0, 5) and spans.shape == (0, 2)
    assert list(iter_windows([], 0.5, 0.5, 10)) == []


def test_windows_are_a_copy():
    waveform = np.ones(10, np.float32)
    slice_windows(waveform, 0.5, 0.5, 10)[0][:] = 5
    next(iter_windows([waveform], 1, 1, 10))[0][:] = 5
    assert (waveform == 1).all()


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 60), max_size=8),
    st.floats(0.1, 4),
    st.floats(0.1, 4),
)
def test_stream_equals_slices_of_the_whole(sizes, window, hop):
    waveform = np.random.default_rng(len(sizes)).standard_normal(sum(sizes)).astype(np.float32)
    blocks = np.split(waveform, np.cumsum(sizes)[:-1]) if sizes else []
    windows, spans = slice_windows(waveform, window, hop, 10)
    streamed = list(iter_windows(iter(blocks), window, hop, 10))
    assert len(streamed) == len(windows)
    for (one, start, end), other, span in zip(streamed, windows, spans, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (start, end) == tuple(span)


@pytest.mark.parametrize(("window", "hop"), [(5, 5), (5, 2.5), (1, 3)])
def test_stream_holds_little(window, hop):
    drawn = 0

    def blocks():
        nonlocal drawn
        for _ in range(1000):
            drawn += 1
            yield np.zeros(16, np.float32)

    stream = iter_windows(blocks(), window, hop, 16)
    for i in range(20):
        next(stream)
        assert drawn <= math.ceil(i * hop + window)


@pytest.mark.parametrize("name", ["window_seconds", "hop_seconds"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 3600.5, "5", None, True, 0.00001])
@pytest.mark.parametrize("stream", [False, True])
def test_bad_seconds_are_named(name, value, stream):
    seconds = {"window_seconds": 1.0, "hop_seconds": 1.0, name: value}
    waveform = np.zeros(100, np.float32)
    with pytest.raises(ConfigError, match=rf"{name}={value!r}: "):
        if stream:
            list(iter_windows([waveform], sample_rate=16000, **seconds))
        else:
            slice_windows(waveform, sample_rate=16000, **seconds)


def test_window_length_rounds():
    assert window_length(5, 16000) == 80000
    assert window_length(0.33333, 16000) == 5333
    assert window_length(3600, 16000) == 57600000


@pytest.mark.parametrize("norm", ["raw", "sample", "global"])
@pytest.mark.parametrize(("name", "cut"), [*((name, "5s") for name in WAVES), ("w10", "whole"), ("w12p3", "whole")])
def test_normalization_equals_golden(golden, name, norm, cut):
    key = f"norm/{name}@{cut}/{norm}"
    wave = fill_rule.wave(name)
    windows, _ = slice_windows(wave, *[5.0 if cut == "5s" else wave.size / 16000] * 2, 16000)
    mode = {"raw": Normalization.NONE, "sample": Normalization.FILE, "global": Normalization.GLOBAL}[norm]
    out = normalize(windows, mode, GOLDEN_MEAN, GOLDEN_STD)
    assert out.dtype == np.float32 and out.shape == windows.shape
    np.testing.assert_allclose(out[0, :64], golden[f"{key}/head"], atol=1e-5)
    np.testing.assert_allclose(
        [out.mean(dtype=float), out.std(dtype=float, ddof=1)], golden[f"{key}/mean_std"], atol=2e-6
    )


@pytest.mark.parametrize("name", WAVES)
def test_padded_tail_equals_golden(golden, name):
    windows, _ = slice_windows(fill_rule.wave(name), 5, 5, 16000)
    np.testing.assert_allclose(windows[-1, -64:], golden[f"wave/{name}/padded_tail"], atol=1e-6)


def test_each_window_by_its_own_unbiased_statistics():
    windows = np.array([[1, 2, 3, 4], [10, 10, 20, 20]], np.float32)
    out = normalize(windows, Normalization.WINDOW)
    expected = [(w - w.mean()) / w.std(ddof=1) for w in windows.astype(np.float64)]
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    together = (windows - windows.mean()) / windows.astype(np.float64).std(ddof=1)
    np.testing.assert_allclose(normalize(windows, Normalization.FILE), together, rtol=1e-6)


@pytest.mark.parametrize("mode", [Normalization.WINDOW, Normalization.FILE])
@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e-30, 1e30])
@pytest.mark.parametrize("size", [1, 1000, 80000])
def test_constant_windows_become_zeros(mode, value, size):
    windows = np.full((2, size), value, np.float32)
    out = normalize(windows, mode)
    assert out.dtype == np.float32 and not out.any()


def test_silence_among_sound():
    windows = np.stack([np.zeros(100), fill_rule.rng("x").standard_normal(100)]).astype(np.float32)
    out = normalize(windows, Normalization.WINDOW)
    assert not out[0].any() and out[1].std(ddof=1) == pytest.approx(1)
    assert np.isfinite(normalize(windows, Normalization.FILE)).all()


def test_quiet_sound_on_an_offset_is_sound():
    quiet = (0.5 + np.arange(1000) % 2 / 32768).astype(np.float32)[None]
    assert normalize(quiet, Normalization.WINDOW).std(ddof=1) == pytest.approx(1, rel=1e-4)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(-1e3, 1e3))
def test_moments_of_parts_are_those_of_the_whole(sizes, offset):
    parts = [fill_rule.matrix(f"part{i}", size) + np.float32(offset) for i, size in enumerate(sizes)]
    whole = np.concatenate(parts).astype(np.float64)
    mean, std = moments(iter(parts))
    assert mean == pytest.approx(whole.mean(), rel=1e-12, abs=1e-12)
    assert std == pytest.approx(whole.std(ddof=1) if whole.size > 1 else 0, rel=1e-9, abs=1e-9)


def test_file_mode_in_two_streamed_passes():
    windows, _ = slice_windows(fill_rule.wave("w12p3"), 5, 2.5, 16000)
    mean, std = moments(iter(windows))
    np.testing.assert_array_equal(
        normalize(windows[:2], Normalization.GLOBAL, mean, std), normalize(windows, Normalization.FILE)[:2]
    )


@pytest.mark.parametrize(("mean", "std"), [(0, 0), (0, -1), (0, float("nan")), (float("inf"), 1)])
def test_global_statistics_must_be_usable(mean, std):
    with pytest.raises(ConfigError, match="std="):
        normalize(np.ones((1, 4), np.float32), Normalization.GLOBAL, mean, std)


@pytest.mark.parametrize("mode", Normalization)
def test_no_windows_stay_no_windows(mode):
    assert normalize(np.empty((0, 5), np.float32), mode).shape == (0, 5)


def test_moments_of_nothing():
    with pytest.raises(AudioError, match="zero samples"):
        moments([])


def test_pooling():
    embeddings = np.array([[1, 2], [3, 6]], np.float32)
    spans = np.array([[0, 5], [2.5, 6.0]])
    pooled, span = pool_windows(embeddings, spans, Pool.MEAN)
    assert pooled.dtype == np.float32
    np.testing.assert_array_equal(pooled, [[2, 4]])
    np.testing.assert_array_equal(span, [[0, 6]])
    same, spans_too = pool_windows(embeddings, spans, "none")
    assert same is embeddings and spans_too is spans


def test_pooling_errors():
    with pytest.raises(ConfigError, match=r"pool='max'.*'mean', 'none'"):
        pool_windows(np.ones((1, 2), np.float32), np.ones((1, 2)), "max")
    with pytest.raises(AudioError, match="no windows"):
        pool_windows(np.empty((0, 2), np.float32), np.empty((0, 2)))
