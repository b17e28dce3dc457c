import math
import operator

import fill_rule
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtslvr.audio.windows import iter_windows, moments, standardize
from mtslvr.errors import ConfigError


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=8), st.floats(0.1, 4), st.floats(0.1, 4))
def test_windows_of_blocks_are_those_of_the_rule(sizes, window, hop):
    """Start i is round(i * hop * rate); a window follows until one reaches the end, and repeats its own piece."""
    waveform = np.random.default_rng(len(sizes)).standard_normal(sum(sizes)).astype(np.float32)
    kept = waveform.copy()
    blocks = np.split(waveform, np.cumsum(sizes)[:-1]) if sizes else []
    found = list(iter_windows(iter(blocks), window, hop, 10))
    size, index, end = round(window * 10), 0, 0
    while (start := round(index * hop * 10)) < waveform.size and end < waveform.size:
        cut, begin_seconds, end_seconds = found[index]
        end = start + size
        np.testing.assert_array_equal(cut, np.resize(waveform[start:end], size))
        assert (begin_seconds, end_seconds) == (start / 10, min(end, waveform.size) / 10)
        index += 1
    assert len(found) == index
    for cut, *_ in found:
        assert cut.dtype == np.float32
        cut[:] = 5  # a copy
    np.testing.assert_array_equal(waveform, kept)


def test_stream_holds_little_and_bad_seconds_are_named():
    for window, hop in ((5, 2.5), (1, 3)):
        blocks = iter([np.zeros(16, np.float32)] * 1000)
        stream = iter_windows(blocks, window, hop, 16)
        for i in range(20):
            next(stream)
            assert 1000 - operator.length_hint(blocks) <= math.ceil(i * hop + window)
    for value in (0, float("nan"), 3600.5, "5", None, True, 0.00001):
        for name, seconds in (("window_seconds", (value, 1)), ("hop_seconds", (1, value))):
            with pytest.raises(ConfigError, match=f"{name}={value!r}: "):
                next(iter_windows([], *seconds, 16000))


@pytest.mark.parametrize("clip", ["w5@5s", "w1@5s", "w3p2@5s", "w10@5s", "w12p3@5s", "w10@whole", "w12p3@whole"])
def test_normalization_and_tails_equal_golden(golden, pieces, clip):
    for norm in ("raw", "sample", "global"):
        out = pieces(clip, norm).numpy()
        assert out.dtype == np.float32
        np.testing.assert_allclose(out[0, :64], golden[f"norm/{clip}/{norm}/head"], atol=1e-5)
        statistics = golden[f"norm/{clip}/{norm}/mean_std"]
        np.testing.assert_allclose([out.mean(dtype=float), out.std(dtype=float, ddof=1)], statistics, atol=2e-6)
    if clip.endswith("@5s"):  # the last piece is repeated
        tail = golden[f"wave/{clip.removesuffix('@5s')}/padded_tail"]
        np.testing.assert_allclose(pieces(clip, "raw").numpy()[-1, -64:], tail, atol=1e-6)


def test_constant_windows_become_zeros_and_quiet_sound_on_an_offset_does_not():
    for value in (0.0, 0.1, -1 / 3, 1e-30, 1e30):
        for size in (1, 1000, 80000):
            windows = np.full((2, size), value, np.float32)
            out = standardize(windows, *moments(windows))
            assert out.dtype == np.float32 and not out.any()
    quiet = (0.5 + np.arange(1000) % 2 / 32768).astype(np.float32)
    assert standardize(quiet, *moments([quiet])).std(ddof=1) == pytest.approx(1, rel=1e-4)


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(-1e3, 1e3))
def test_moments_of_parts_are_those_of_the_whole(sizes, offset):
    parts = [fill_rule.matrix(f"part{i}", size) + np.float32(offset) for i, size in enumerate(sizes)]
    whole = np.concatenate(parts).astype(np.float64)
    mean, std = moments(iter(parts))
    assert mean == pytest.approx(whole.mean(), rel=1e-12, abs=1e-12)
    assert std == pytest.approx(whole.std(ddof=1) if whole.size > 1 else 0, rel=1e-9, abs=1e-9)
