import errno
import functools
import http.client
import io
import os
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr
import torch
from numpy.testing import assert_allclose, assert_array_equal

from mtslvr.audio.load import audio_label, iter_blocks, load_audio, load_parts
from mtslvr.audio.recordings import BLOCK_FRAMES
from mtslvr.errors import AudioError

FORMATS = {  # subtype: (formats, how far a decoded sine may be from the one written)
    "PCM_16": (["WAV", "FLAC", "AIFF", "AU", "CAF", "VOC", "NIST"], 1e-4),
    "PCM_U8": (["WAV"], 1e-2),
    "FLOAT": (["W64"], 1e-6),
    "VORBIS": (["OGG"], 0.05),
    "OPUS": (["OGG"], 0.05),
    None: (["MP3"], 0.05),
}


def noise(n):
    return (0.1 * np.random.default_rng(0).standard_normal(n)).astype(np.float32)


def write(path, samples, rate=16000, **how):
    soundfile.write(path, samples, rate, **how)
    return path


def error_of(source, target_rate=16000, sample_rate=16000, **how):
    with pytest.raises(AudioError) as caught:
        load_audio(source, target_rate, sample_rate=sample_rate, **how)
    return str(caught.value)


class Trickle(io.BytesIO):
    """Gives less than it is asked for, and no more than is readable."""

    error, readable_bytes = None, 1 << 30

    def read(self, size=-1):
        if self.tell() + size > self.readable_bytes:
            raise self.error()
        return super().read(min(size, 700))


@pytest.mark.parametrize("subtype", FORMATS)
def test_every_format_and_kind_of_input_gives_the_mean_over_channels(tmp_path, subtype):
    left, right = (0.5 * np.sin(2 * np.pi * hz * np.arange(48000) / 48000) for hz in (440, 660))
    kinds, tolerance = FORMATS[subtype]
    for kind in kinds:
        path = tmp_path / f"a.{kind.lower()}"
        write(path, np.stack([left, right], axis=1), 48000, format=kind, subtype=subtype)
        out = load_audio(path, 48000)
        assert out.dtype == np.float32 and out.shape == left.shape
        middle = slice(4800, -4800)  # a codec may smear the edges
        assert_allclose(out[middle], ((left + right) / 2)[middle], atol=tolerance)
        data = path.read_bytes()
        memory = io.BytesIO(data)
        memory.seek(0, os.SEEK_END)
        with open(path, "rb", buffering=0) as file:
            pipe = SimpleNamespace(read=io.BytesIO(data).read)  # that can only be read, once
            for source in (str(path), memory, memory, file, pipe, Trickle(data)):
                assert_array_equal(load_audio(source, 48000), out)


@pytest.mark.parametrize(("rate", "target"), [(8000, 44100), (11025, 16000), (16000, 16000), (48000, 8000)])
def test_streamed_resampling_equals_the_whole(tmp_path, rate, target):
    samples = noise(rate * 4 + 17)
    path = write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    expected = soxr.resample(samples, rate, target)
    blocks = list(iter_blocks(path, target))
    assert len(blocks) > 1 and max(map(len, blocks)) <= 1.1 * BLOCK_FRAMES * max(1, target / rate)
    out = np.concatenate(blocks)
    assert out.shape == expected.shape and out.dtype == np.float32
    assert_allclose(out, expected, atol=1e-4)
    assert_array_equal(load_audio(samples, target, sample_rate=rate), out)


def test_a_decoder_that_fails_midway_says_where(tmp_path):
    path = write(tmp_path / "a.flac", noise(5 * 44100), 44100)
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(5000) + data[half + 5000 :])
    place, said = error_of(path).removeprefix(f"{path}: decoding fails after ").split(" s ")
    assert said == "(libsndfile: flac decoder lost sync); encode it again or cut it there" and 1.9 < float(place) < 2.6


def test_parts_of_a_file_are_those_of_the_whole(tmp_path):
    path = write(tmp_path / "a.wav", noise(50_000))
    whole = load_audio(path, 8_000)
    parts, seconds = load_parts(path, 8_000, [(None, None), (0.5, 1.25), (2.0, None), (3.0, 9.0), (9.0, 10.0)])
    assert seconds == pytest.approx(50_000 / 16_000, abs=1e-3)
    expected = [whole, whole[4_000:10_000], whole[16_000:], whole[24_000:], whole[:0]]
    for part, right in zip(parts, expected, strict=True):
        assert_array_equal(part, right)


def test_arrays_and_tensors_which_are_neither_changed_nor_shared():
    load = functools.partial(load_audio, target_rate=16000, sample_rate=16000)
    for dtype, channels in ((np.float16, ()), (np.float16, (2,)), (np.float64, (1,)), (np.float64, (2,))):
        samples = np.resize(noise(200), (*channels, 100)).astype(dtype)
        for array in (samples, torch.from_numpy(samples)):
            out = load(array)
            assert out.dtype == np.float32 and out.shape == (100,)
            assert_allclose(out, np.atleast_2d(samples).mean(axis=0, dtype=float), atol=1e-7)
    for dtype in (torch.bfloat16, torch.int16):
        assert np.isfinite(load(torch.ones(10, dtype=dtype))).all()
    assert_array_equal(load(torch.arange(20.0, requires_grad=True).reshape(10, 2).T), np.arange(10) * 2 + 0.5)
    assert_array_equal(load(np.arange(10.0)[::-1]), np.arange(10.0)[::-1])
    samples = noise(100)
    load(samples)[:] = 7
    assert_array_equal(samples, noise(100))
    for dtype, values in (  # integers are scaled by their range
        ("int8", [-128, 0, 64]),
        (">i2", [-32768, 0, 16384]),
        ("int64", [-(2**63), 0, 2**62]),
        ("uint16", [0, 32768, 49152]),
    ):
        assert_array_equal(load(np.array(values, dtype)), np.float32([-1, 0, 0.5]))


@pytest.mark.filterwarnings("error")
def test_bad_arrays_and_rates():
    for array, message in (
        (np.array(1.0), "shape (): must be (samples,) or (channels, samples)"),
        (np.zeros((2, 2, 9)), "shape (2, 2, 9): must be (samples,) or (channels, samples)"),
        (np.zeros((0, 9)), "shape (0, 9): zero samples; leave it out"),
        (np.zeros((9, 2)), "shape (9, 2): 9 channels of 2 samples; pass (channels, samples)"),
        (np.zeros((17, 99)), "shape (17, 99): more than 16 rows are no channels of a recording; pass a batch"),
        (np.zeros(9, complex), "dtype complex128: must be floating point or integer samples"),
        (torch.zeros(9, dtype=torch.bool), "dtype bool: must be floating"),
        (np.array([[np.inf] * 9, [-np.inf] * 9]), "NaN or infinite samples, or beyond float32, the first at index 0"),
        (np.full(9, 1e300), "NaN or infinite samples, or beyond float32"),
    ):
        assert error_of(array).startswith(f"<array>: {message}")
    assert load_audio(np.zeros(10), np.int64(16000), sample_rate=np.int32(8000)).size == 20
    assert error_of(np.zeros(9), sample_rate=None) == "<array>: array input needs sample_rate=... (Hz)"
    for name in ("target_rate", "sample_rate"):
        for rate in (999, 16000.0, "16000", True, 768001):
            message = f"<array>: {name}={rate!r}: must be a whole number of Hz from 1000 to 768000"
            assert error_of(np.zeros(9), **{name: rate}) == message


def test_samples_that_are_not_finite_are_refused_where_reading_which_is_lazy_comes_to_them(tmp_path):
    samples = np.zeros((2, 50000))
    samples[:, 40000] = samples[:, 20000] = np.nan
    path = write(tmp_path / "a.wav", samples.T, subtype="DOUBLE")
    said = ": NaN or infinite samples, or beyond float32, the first at index 20000 (1.250 s); repair or remove them"
    assert error_of(path, 8000) == f"{path}{said}"
    assert next(iter_blocks(path, 16000)).size == BLOCK_FRAMES < 20000


def test_what_holds_no_audio(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "head.wav").write_bytes(b"RIFF")
    for source, said in (
        (str(tmp_path / "gone.wav"), "{}: no such file; check the path"),
        (tmp_path, "{} is a folder; give its files to mtslvr.embed_files, or use mtslvr-embed"),
        (tmp_path / "empty.wav", "{}: an empty file (0 bytes), zero samples; leave it out"),
        (tmp_path / "head.wav", "{}: not an audio file (begins with 'RIFF', libsndfile: "),
        (write(tmp_path / "short.wav", np.ones(1) / 2, 44100), "{}: zero samples; leave it out"),  # once resampled
        (io.BytesIO(), "<file object>: an empty file (0 bytes), zero samples; leave it out"),
        (SimpleNamespace(read=lambda size=-1: None), "<file object>: cannot be read (TypeError: memoryview: a bytes"),
        (io.StringIO("text"), "<file object>: a text file object; open it in binary mode, open(path, 'rb')"),
        (SimpleNamespace(read=None, seekable=lambda: True, seek=None), "<file object>: cannot be read (TypeError: "),
        ([0.0, 1.0], "<list>: type list: pass a path"),
    ):
        assert error_of(source).startswith(said.format(source))
    assert error_of("gone.wav", label="dog") == "dog: no such file; check the path"
    assert audio_label("a/../b.wav") == "a/../b.wav" and audio_label(io.BytesIO(), 1) == "<file object 1>"


@pytest.mark.parametrize("name", ["a.wav", "a.ogg", "a.flac", "a.mp3"])
def test_a_disk_or_server_that_fails_while_it_is_read_is_no_end_of_the_file(tmp_path, name, capfd):
    file = Trickle(write(tmp_path / name, noise(500_000), 44100).read_bytes())
    blocks, size = iter_blocks(file, 16000), len(file.getvalue())
    next(blocks)
    for kind, file.error, said in (
        (AudioError, lambda: OSError(errno.EIO, "Input/output error"), "[Errno 5] Input/output error"),
        (AudioError, lambda: http.client.IncompleteRead(b"12", 9), "IncompleteRead: IncompleteRead(2 bytes read, 9 mo"),
        (KeyboardInterrupt, KeyboardInterrupt, ""),  # what ends the program goes through
    ):
        for file.readable_bytes in (size // 2, 0, 5, 600, size // 2, size - 9):
            with pytest.raises(kind) as caught:
                list(blocks)
            assert str(caught.value).startswith(f"<file object>: cannot be read ({said}" if said else "")
            blocks = iter_blocks(file, 16000)
    assert capfd.readouterr().err == ""
