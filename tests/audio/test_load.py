import errno
import io
import os
import sys

import numpy as np
import pytest
import soundfile
import soxr
import torch

from mtslvr.audio import load as audio
from mtslvr.audio.find import search
from mtslvr.audio.load import AUDIO_SUFFIXES, audio_label, find_audio, iter_blocks, load_audio, load_parts
from mtslvr.cli.inputs import gather
from mtslvr.errors import AudioError

FORMATS = {  # name: (format, subtype, how far a decoded sine may be from the one written)
    "a.wav": ("WAV", "PCM_16", 1e-4),
    "f64.wav": ("WAV", "DOUBLE", 1e-6),
    "u8.wav": ("WAV", "PCM_U8", 1e-2),
    "a.flac": ("FLAC", "PCM_16", 1e-4),
    "a.aiff": ("AIFF", "PCM_16", 1e-4),
    "a.au": ("AU", "PCM_16", 1e-4),
    "a.caf": ("CAF", "PCM_16", 1e-4),
    "a.w64": ("W64", "FLOAT", 1e-6),
    "a.ogg": ("OGG", "VORBIS", 0.05),
    "a.opus": ("OGG", "OPUS", 0.05),
    "a.mp3": ("MP3", None, 0.05),
}


def tone(rate=48000, seconds=2.0, hz=440.0):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


def noise(n, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def write(path, samples, rate, **how):
    soundfile.write(path, samples, rate, **how)
    return path


def encode(samples, rate, **how):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **how)
    return file.getvalue()


def error_of(*args, **kwargs):
    with pytest.raises(AudioError) as caught:
        load_audio(*args, **kwargs)
    return str(caught.value)


# Files


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_formats_decode_to_the_mean_over_channels(tmp_path, name, channels):
    kind, subtype, tolerance = FORMATS[name]
    left, right = tone(), tone(hz=660)
    samples = left if channels == 1 else np.stack([left, right], axis=1)
    path = write(tmp_path / name, samples, 48000, format=kind, subtype=subtype)
    out = load_audio(path, 48000)
    assert out.dtype == np.float32 and out.shape == left.shape
    middle = slice(4800, -4800)  # a codec may smear the edges
    expected = left if channels == 1 else (left + right) / 2
    np.testing.assert_allclose(out[middle], expected[middle], atol=tolerance)


@pytest.mark.parametrize("name", FORMATS)
def test_path_string_bytes_and_pipe_agree(tmp_path, name):
    kind, subtype, _ = FORMATS[name]
    path = write(tmp_path / name, np.stack([noise(96000), noise(96000, 1)], 1), 48000, format=kind, subtype=subtype)
    expected = load_audio(path, 16000)
    np.testing.assert_array_equal(load_audio(str(path), 16000), expected)
    memory = io.BytesIO(path.read_bytes())
    memory.seek(0, os.SEEK_END)
    np.testing.assert_array_equal(load_audio(memory, 16000), expected)
    np.testing.assert_array_equal(load_audio(memory, 16000), expected)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(load_audio(file, 16000), expected)
    np.testing.assert_array_equal(load_audio(Pipe(path.read_bytes()), 16000), expected)


class Pipe(io.RawIOBase):
    def __init__(self, data):
        self._data = io.BytesIO(data)

    def readable(self):
        return True

    def read(self, size=-1):
        return self._data.read(size)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
@pytest.mark.parametrize("target", [8000, 16000, 44100])
def test_streamed_resampling_equals_the_whole(tmp_path, rate, target):
    samples = noise(rate * 3 + 17)
    path = write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    expected = soxr.resample(samples, rate, target)
    blocks = list(iter_blocks(path, target))
    assert len(blocks) > 1 and max(map(len, blocks)) <= 2 * audio.BLOCK_FRAMES
    out = np.concatenate(blocks)
    assert out.shape == expected.shape and all(block.dtype == np.float32 for block in blocks)
    np.testing.assert_allclose(out, expected, atol=1e-4)
    np.testing.assert_array_equal(load_audio(samples, target, sample_rate=rate), out)


def test_resampling_keeps_a_tone_and_drops_what_would_alias():
    kept = load_audio(tone(44100, hz=1000), 16000, sample_rate=44100)
    np.testing.assert_allclose(kept[800:-800], tone(16000, hz=1000)[800:-800], atol=1e-4)
    aliased = load_audio(tone(44100, hz=12000), 16000, sample_rate=44100)
    assert np.abs(aliased[800:-800]).max() < 1e-4


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_block_length_does_not_show(tmp_path, monkeypatch, block):
    path = write(tmp_path / "a.ogg", noise(3000), 44100)
    expected = load_audio(path, 16000)
    monkeypatch.setattr(audio, "BLOCK_FRAMES", block)
    np.testing.assert_allclose(load_audio(path, 16000), expected, atol=1e-6)


def test_reading_is_lazy(tmp_path):
    samples = noise(10 * audio.BLOCK_FRAMES)
    samples[-1] = np.nan
    path = write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    blocks = iter_blocks(path, 16000)
    np.testing.assert_array_equal(next(blocks), samples[: audio.BLOCK_FRAMES])
    blocks.close()


def test_mp3_without_a_length_header_is_read_to_its_end():
    quiet = encode(tone(44100, 1) * 1e-3, 44100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.99)
    loud = encode(noise(44100 * 3), 44100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.0)
    data = frames_without_header(loud[:4000]) + frames_without_header(quiet) * 4
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        estimated = file.frames
    assert load_audio(io.BytesIO(data), 44100).size > 4 * 40000 > 1.2 * estimated


def test_mp3_without_a_length_header_may_be_cut():
    data = frames_without_header(encode(noise(44100 * 3), 44100, format="MP3"))
    whole = load_audio(io.BytesIO(data), 44100)
    cut = load_audio(io.BytesIO(data[: len(data) // 2]), 44100)
    assert 0.45 * whole.size < cut.size < 0.55 * whole.size
    np.testing.assert_array_equal(cut[:40000], whole[:40000])


def frames_without_header(mp3):
    # Frame headers repeat their first two bytes; the first frame holds only the Xing header.
    return mp3[mp3.index(mp3[:2], 4) :]


@pytest.mark.parametrize("samples", [np.zeros(1000), np.zeros((1000, 2))])
def test_silence_is_fine(tmp_path, samples):
    out = load_audio(write(tmp_path / "a.wav", samples, 8000), 16000)
    assert out.shape == (2000,) and not out.any()


@pytest.mark.parametrize(("rate", "length"), [(8000, 2), (16000, 1)])
def test_one_sample(tmp_path, rate, length):
    assert load_audio(write(tmp_path / "a.wav", np.ones(1) / 2, rate), 16000).shape == (length,)


def test_one_sample_that_resampling_leaves_nothing_of(tmp_path):
    path = write(tmp_path / "a.wav", np.ones(1) / 2, 44100)
    assert error_of(path, 16000) == f"{path}: zero samples; leave it out"


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.mp3", "a.ogg"])
def test_truncated_files_give_what_is_there(tmp_path, name):
    path = write(tmp_path / name, noise(100000), 44100)
    whole = load_audio(path, 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    out = load_audio(path, 44100)
    assert 0 < out.size < whole.size
    np.testing.assert_allclose(out[:20000], whole[:20000], atol=1e-6)


def test_a_decoder_that_fails_midway_says_where(tmp_path):
    path = write(tmp_path / "a.flac", noise(5 * 44100), 44100)
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(5000) + data[half + 5000 :])
    message = error_of(path, 16000)
    assert message.startswith(f"{path}: decoding fails after ")
    assert "(libsndfile: flac decoder lost sync); encode it again or cut it there" in message
    assert 1.9 < float(message.split(" after ")[1].split(" s ")[0]) < 2.6


# Arrays


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(100,), (1, 100), (2, 100)])
def test_floating_arrays(kind, dtype, shape):
    samples = noise(int(np.prod(shape))).reshape(shape).astype(dtype)
    out = load_audio(kind(samples), 16000, sample_rate=16000)
    assert out.dtype == np.float32 and out.shape == (100,)
    np.testing.assert_allclose(out, np.atleast_2d(samples).mean(axis=0, dtype=float), atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("int8", [-128, 0, 64]),
        ("int16", [-32768, 0, 16384]),
        (">i2", [-32768, 0, 16384]),
        ("int32", [-(2**31), 0, 2**30]),
        ("int64", [-(2**63), 0, 2**62]),
        ("uint8", [0, 128, 192]),
        ("uint16", [0, 32768, 49152]),
    ],
)
def test_integers_are_scaled_by_their_range(dtype, values):
    np.testing.assert_array_equal(
        load_audio(np.array(values, dtype), 16000, sample_rate=16000), np.float32([-1, 0, 0.5])
    )


def test_int16_array_equals_its_wav(tmp_path):
    samples = (noise(1000) * 32768).astype(np.int16)
    path = write(tmp_path / "a.wav", samples, 16000)
    np.testing.assert_array_equal(load_audio(samples, 16000, sample_rate=16000), load_audio(path, 16000))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int16, torch.uint8])
def test_other_tensors(dtype):
    out = load_audio(torch.ones(10, dtype=dtype), 16000, sample_rate=16000)
    assert out.dtype == np.float32 and np.isfinite(out).all()


def test_tensor_with_gradient_and_odd_strides():
    tensor = torch.arange(20.0, requires_grad=True).reshape(10, 2).T
    np.testing.assert_array_equal(load_audio(tensor, 16000, sample_rate=16000), np.arange(10) * 2 + 0.5)
    backwards = np.arange(10.0)[::-1]
    np.testing.assert_array_equal(load_audio(backwards, 16000, sample_rate=16000), backwards)


def test_input_is_neither_changed_nor_shared():
    samples = noise(100)
    before = samples.copy()
    load_audio(samples, 16000, sample_rate=16000)[:] = 7
    np.testing.assert_array_equal(samples, before)


def test_sample_rate_is_for_arrays_only(tmp_path):
    path = write(tmp_path / "a.wav", noise(1000), 8000)
    assert load_audio(path, 16000, sample_rate=44100).size == 2000


# Errors


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(1.0), "<array>: shape (): must be (samples,) or (channels, samples)"),
        (np.zeros((2, 2, 9)), "<array>: shape (2, 2, 9): must be (samples,) or (channels, samples)"),
        (np.zeros(0), "<array>: shape (0,): zero samples; leave it out"),
        (np.zeros((2, 0)), "<array>: shape (2, 0): zero samples; leave it out"),
        (np.zeros((0, 9)), "<array>: shape (0, 9): zero samples; leave it out"),
        (np.zeros((9, 2)), "<array>: shape (9, 2): 9 channels of 2 samples; pass (channels, samples)"),
        (
            np.zeros((17, 99)),
            "<array>: shape (17, 99): more than 16 rows are no channels of a recording; pass a batch",
        ),
        (np.zeros(9, complex), "<array>: dtype complex128: must be floating point or integer samples"),
        (np.zeros(9, bool), "<array>: dtype bool: must be floating point or integer samples"),
        (np.zeros(9, object), "<array>: dtype object: must be floating point or integer samples"),
        (np.array(["a"]), "<array>: dtype <U1: must be floating point or integer samples"),
        (torch.zeros(9, dtype=torch.complex64), "<array>: dtype complex64: must be floating"),
        (torch.zeros(9, dtype=torch.bool), "<array>: dtype bool: must be floating"),
        (torch.zeros(9, device="meta"), "<array>: torch.float32 tensor that NumPy cannot hold ("),
        (torch.zeros(9).to_sparse(), "<array>: torch.float32 tensor that NumPy cannot hold ("),
    ],
)
def test_bad_arrays(array, message):
    assert error_of(array, 16000, sample_rate=16000).startswith(message)


@pytest.mark.parametrize("name", ["target_rate", "sample_rate"])
@pytest.mark.parametrize("rate", [0, 999, -16000, 16000.0, float("nan"), "16000", True, 768001])
def test_bad_rates(name, rate):
    rates = {"target_rate": 16000, "sample_rate": 16000, name: rate}
    message = error_of(np.zeros(9), **rates)
    assert message == f"<array>: {name}={rate!r}: must be a whole number of Hz from 1000 to 768000"


def test_rates_of_numpy_integers():
    assert load_audio(np.zeros(10), np.int64(16000), sample_rate=np.int32(8000)).size == 20


def test_array_without_a_rate():
    assert error_of(np.zeros(9), 16000) == "<array>: array input needs sample_rate=... (Hz)"
    assert error_of(torch.zeros(9), 16000, label="<array 3>").startswith("<array 3>: array input needs")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("source", ["mono", "stereo", "file"])
def test_samples_that_are_not_finite_are_counted(tmp_path, value, source):
    samples = np.zeros((2, 50000))
    samples[:, 40000] = samples[:, 100] = value
    if source == "file":
        path = write(tmp_path / "a.wav", samples.T, 16000, subtype="DOUBLE")
        message = error_of(path, 8000)
    else:
        message = error_of(samples if source == "stereo" else samples[0], 8000, sample_rate=16000)
    assert message.endswith(": NaN or infinite samples: 2, the first at index 100 (0.006 s); repair or remove them")


def test_first_bad_sample_of_a_late_block():
    samples = np.zeros(50000)
    samples[40000] = np.nan
    assert ": 1, the first at index 40000 (2.500 s)" in error_of(samples, 16000, sample_rate=16000)


@pytest.mark.filterwarnings("error")
def test_opposite_infinities_and_overflow_are_not_finite():
    assert "NaN or infinite" in error_of(np.array([[np.inf] * 9, [-np.inf] * 9]), 16000, sample_rate=16000)
    assert "NaN or infinite" in error_of(np.full(9, 1e300), 16000, sample_rate=16000)


@pytest.mark.parametrize("as_string", [False, True])
def test_paths_that_hold_no_audio(tmp_path, as_string):
    kind = str if as_string else lambda path: path
    for name, content in {
        "empty.wav": b"",
        "text.wav": b"hello " * 100,
        "head.wav": b"RIFF",
        "x.raw": b"12",
    }.items():
        (tmp_path / name).write_bytes(content)
    write(tmp_path / "none.wav", np.zeros(0), 16000)
    expected = {
        "gone.wav": "{}: no such file; check the path",
        "": "{} is a folder; use find_audio or mtslvr-embed",
        "empty.wav": "{}: an empty file (0 bytes), zero samples; leave it out",
        "none.wav": "{}: zero samples; leave it out",
        "text.wav": "{}: not an audio file (libsndfile: Format not recognised); convert it to WAV or FLAC",
        "head.wav": "{}: not an audio file (libsndfile: ",
        "x.raw": "{}: not an audio file (libsndfile: Format not recognised); convert it to WAV or FLAC",
    }
    for name, message in expected.items():
        path = tmp_path / name if name else tmp_path
        assert error_of(kind(path), 16000).startswith(message.format(path))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names of any bytes")
def test_a_file_name_that_is_not_unicode(tmp_path):
    path = write(tmp_path / "a.wav", noise(100), 16000)
    os.rename(path, os.fsencode(tmp_path) + b"/\xff.wav")
    [found] = find_audio(tmp_path)
    assert os.fsencode(found.name) == b"\xff.wav"
    assert load_audio(found.path, 16000).shape == (100,)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (io.BytesIO(b""), "<file object>: not an audio file (libsndfile: Format not recognised)"),
        (io.BytesIO(b"junk" * 99), "<file object>: not an audio file (libsndfile: Format not recognised)"),
        (io.StringIO("text"), "<file object>: a text file object; open it in binary mode, open(path, 'rb')"),
        (None, "<NoneType>: type NoneType: pass a path, a binary file object, an array or a tensor"),
        (b"RIFF", "<bytes>: type bytes: pass a path, a binary file object"),
        ([0.0, 1.0], "<list>: type list: pass a path"),
    ],
)
def test_bad_file_objects(source, message):
    assert error_of(source, 16000, sample_rate=16000).startswith(message)


def test_closed_file_object():
    file = io.BytesIO()
    file.close()
    assert error_of(file, 16000).startswith("<file object>: cannot be read (")


def test_labels(tmp_path):
    assert audio_label("a/../b.wav") == "a/../b.wav"
    assert audio_label(tmp_path / "a.wav") == str(tmp_path / "a.wav")
    assert audio_label(np.zeros(3)) == "<array>" and audio_label(torch.zeros(3), 2) == "<array 2>"
    assert audio_label(io.BytesIO()) == "<file object>" and audio_label(io.BytesIO(), 1) == "<file object 1>"
    assert error_of(np.zeros(0), 16000, sample_rate=1, label="dog").startswith("dog: shape (0,)")
    assert error_of(tmp_path / "gone.wav", 16000, label="dog") == "dog: no such file; check the path"


# find_audio


@pytest.fixture
def no_ffmpeg(monkeypatch):
    monkeypatch.setenv("PATH", "")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names_of(*inputs):
    return [found.name for found in find_audio(inputs)]


def test_folders_are_searched_in_order(tmp_path, no_ffmpeg):
    touch(
        tmp_path,
        "b.WAV",
        "a/z.mp3",
        "a/b/c.Flac",
        "a.txt",
        "a/x.m4a",
        ".h.wav",
        ".git/a.wav",
        "c.wav.part",
        "wav",
    )
    found = find_audio(tmp_path)
    assert [one.name for one in found] == ["a/b/c.Flac", "a/z.mp3", "b.WAV"]
    assert [one.path for one in found] == [tmp_path / one.name for one in found]
    assert names_of(str(tmp_path), tmp_path / "a") == ["a/b/c.Flac", "a/z.mp3", "b.WAV"]


def test_every_suffix(tmp_path, no_ffmpeg):
    touch(tmp_path, *(f"x{suffix}" for suffix in AUDIO_SUFFIXES))
    assert names_of(tmp_path) == sorted(f"x{suffix}" for suffix in AUDIO_SUFFIXES)
    assert {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"} <= AUDIO_SUFFIXES


def test_files_as_given_keep_the_order(tmp_path, monkeypatch):
    touch(tmp_path, "b.wav", "a.bin", ".hidden.wav")
    monkeypatch.chdir(tmp_path)
    assert names_of("b.wav", "a.bin", ".hidden.wav") == ["b.wav", "a.bin", ".hidden.wav"]
    assert names_of("b.wav", "./b.wav", tmp_path / "b.wav", ".") == ["b.wav"]


def test_clashing_names_are_told_apart(tmp_path, monkeypatch):
    touch(tmp_path, "p/x/1.wav", "p/x/2.wav", "q/x/1.wav", "r/1.wav", "s/3.wav")
    monkeypatch.chdir(tmp_path)
    assert names_of("p/x", "r", "s") == ["x/1.wav", "x/2.wav", "r/1.wav", "3.wav"]
    assert names_of("p/x", "q/x") == ["p/x/1.wav", "p/x/2.wav", "q/x/1.wav"]
    assert names_of("p/x/1.wav", "r/1.wav") == ["x/1.wav", "r/1.wav"]
    monkeypatch.chdir(tmp_path / "p" / "x")
    up = (tmp_path / "q/x/1.wav").as_posix()
    assert names_of(".", "../../q/x") == ["1.wav", "2.wav", "../../q/x/1.wav"]
    assert names_of("1.wav", up) == ["1.wav", up]


def test_linked_folders_are_entered_once(tmp_path):
    touch(tmp_path, "in/b/1.wav", "in/c/2.wav", "out/3.wav")
    (tmp_path / "in/a").symlink_to(tmp_path / "in/b")
    (tmp_path / "in/b/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/c/self").symlink_to(".")
    (tmp_path / "in/c/out").symlink_to(tmp_path / "out")
    (tmp_path / "in/4.wav").symlink_to(tmp_path / "out/3.wav")
    (tmp_path / "in/5.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "in/6.wav").mkdir()
    os.mkfifo(tmp_path / "in/7.wav")
    assert names_of(tmp_path / "in") == ["4.wav", "5.wav", "b/1.wav", "c/2.wav", "c/out/3.wav"]
    assert error_of(tmp_path / "in/5.wav", 16000).endswith("no such file; check the path")


@pytest.mark.parametrize("name", ["gone", "gone.wav"])
def test_missing_inputs(tmp_path, name):
    touch(tmp_path, "a.wav")
    with pytest.raises(AudioError, match=rf"{name}': no such file or folder; check the path"):
        find_audio([tmp_path, tmp_path / name])
    with pytest.raises(AudioError, match="no such file or folder"):
        find_audio("")


def test_nothing_found(tmp_path):
    assert find_audio(tmp_path) == [] and find_audio([]) == []


def test_files_that_only_ffmpeg_reads(tmp_path, monkeypatch, no_ffmpeg):
    touch(tmp_path, "a.M4A", "b/b.m4a", "b/c.wma", "d.wav", "e.mid", ".f.m4a", "notes.txt")
    found = search(tmp_path)
    assert [file.name for file in found.files] == ["d.wav"]
    assert found.left_out_text == "4 files left out: 2 .m4a, 1 .mid, 1 .wma; install ffmpeg to read them"
    (tmp_path / "ffmpeg").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = search(tmp_path)
    assert [file.name for file in found.files] == ["a.M4A", "b/b.m4a", "b/c.wma", "d.wav"]
    assert found.left_out_text == "1 files left out: 1 .mid; convert them to WAV or FLAC"
    assert search(tmp_path / "b").left_out_text == ""


def test_a_folder_that_cannot_be_listed_is_named_and_the_rest_found(tmp_path, monkeypatch):
    touch(tmp_path, "a.wav", "lost/b.wav", "z/c.wav")
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("lost"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = search(tmp_path)
    lost = str(tmp_path / "lost")
    assert [file.name for file in found.files] == ["a.wav", "z/c.wav"]
    assert found.unlisted == [(lost, f"{lost}: cannot be listed (Permission denied); make it readable")]
    with pytest.raises(AudioError, match="lost: cannot be listed"):
        find_audio(tmp_path)
    inputs = gather([str(tmp_path)])
    assert [file.name for file in inputs.files] == ["a.wav", "z/c.wav"] and inputs.missing == found.unlisted


# Parts


def test_parts_of_a_file_are_those_of_the_whole(tmp_path):
    path = write(tmp_path / "a.wav", noise(50_000), 16_000)
    whole = load_audio(path, 8_000)
    parts, seconds = load_parts(path, 8_000, [(None, None), (0.5, 1.25), (2.0, None), (3.0, 9.0), (9.0, 10.0)])
    assert seconds == pytest.approx(50_000 / 16_000, abs=1e-3)
    expected = [whole, whole[4_000:10_000], whole[16_000:], whole[24_000:], whole[:0]]
    for part, right in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part, right)
