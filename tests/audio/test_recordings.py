"""Recordings whose headers, tags and lengths lie, or that libsndfile alone does not read to the end."""

import io
import os
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from mtslvr.audio.load import iter_blocks, load_audio
from mtslvr.audio.recordings import Notes
from mtslvr.errors import AudioError

MPEG = {"format": "MP3"}
NEVER_FINISHED = "1.0 s: its header was never finished; read to the end of the file"
CUT = "the file ends before its audio does"


def noise(seconds, rate=44100, channels=1, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal((int(seconds * rate), channels))).astype(np.float32)


def encode(samples, rate=44100, **how):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **how)
    return file.getvalue()


def second_of(**how):
    return encode(noise(1, 16000), 16000, **how)


def frames_of(mp3):
    """The frames behind the first one, which holds only the Info header; headers repeat their first two bytes."""
    return mp3[mp3.index(mp3[:2], 4) :]


def load(source):
    """The waveform, and what is missing of it."""
    notes = Notes()
    source = io.BytesIO(source) if isinstance(source, bytes) else source
    blocks = list(iter_blocks(source, 16000, notes=notes))
    return np.concatenate(blocks), notes.incomplete


def whole(source):
    """The waveform, of which nothing is missing."""
    waveform, incomplete = load(source)
    assert incomplete is None
    return waveform


def is_whole(source, *parts):
    np.testing.assert_array_equal(whole(source), np.concatenate([whole(part) for part in parts]))


def error_of(source):
    with pytest.raises(AudioError) as caught:
        load_audio(source, 16000)
    return str(caught.value)


def put(data, at, content):
    return data[:at] + content + data[at + len(content) :]


@pytest.fixture(autouse=True)
def decoders_are_silent(capfd):
    yield
    assert capfd.readouterr().err == ""


# Several streams in one file


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_chained_ogg_is_read_to_its_end(subtype):
    first = encode(noise(0.6, 16000), 16000, format="OGG", subtype=subtype)
    second = encode(noise(0.7, 48000, 2, seed=1), 48000, format="OGG", subtype=subtype)
    is_whole(first + second + first, first, second, first)


def test_joined_flacs_are_read_to_the_end():
    first, second = encode(noise(0.6), format="FLAC"), encode(noise(0.7, 16000, 2, seed=1), 16000, format="FLAC")
    tag = id3(b"TIT2", b"second")
    for joined in (first + second, tag + first + tag + second):
        is_whole(joined, first, second)


@pytest.mark.parametrize(("rate", "channels"), [(44100, 1), (44100, 2), (16000, 1)])
def test_joined_mp3s_are_read_to_the_end(rate, channels):
    """With a header of lengths or a tag between them, or as a change of rate or channels between two frames."""
    first, second = encode(noise(0.6), **MPEG), encode(noise(0.7, rate, channels, seed=1), rate, **MPEG)
    is_whole(first + second, first, second)
    is_whole(first + id3(b"TIT2", b"second") + second, first, second)
    if (rate, channels) == (44100, 1):  # frames of one kind are one stream
        assert whole(first + frames_of(second)).size == pytest.approx(1.3 * 16000, abs=2 * 0.0261 * 16000)
    else:
        is_whole(frames_of(first) + frames_of(second), frames_of(first), frames_of(second))


# Lengths that a header claims


def id3(name, text):
    """An ID3v2.3 tag of one frame."""
    frame = name + struct.pack(">I2x", len(text) + 1) + b"\0" + text
    return b"ID3\3\0\0" + bytes([0, 0, len(frame) >> 7, len(frame) & 127]) + frame


@pytest.mark.parametrize("claimed", [0, 4000, 40000])
def test_the_number_of_samples_that_a_flac_claims(claimed):
    """0 is unknown, too few change nothing, too many are told; what follows the samples of the header is no audio."""
    flac = second_of(format="FLAC")
    out, incomplete = load(put(flac, 22, struct.pack(">I", claimed)))
    np.testing.assert_array_equal(out, whole(flac))
    assert incomplete == ("1.0 s of the 2.5 s its header says" if claimed == 40000 else None)
    is_whole(flac + b"TAG".ljust(128), flac)


def test_the_number_of_frames_that_an_mp3_claims():
    mp3 = encode(noise(1), **MPEG)
    at = max(mp3.find(b"Info"), mp3.find(b"Xing"))
    for claimed in (1, 10):
        is_whole(put(mp3, at + 8, struct.pack(">I", claimed)), mp3)
    is_whole(put(mp3, at + 4, bytes(4)), frames_of(mp3))


@pytest.mark.parametrize("tags", [(b"TXXX", b"Info"), (b"TIT2", b"a", b"TXXX", b"Xing")])
def test_tags_are_no_headers_of_length(tags):
    quiet = frames_of(encode(noise(1) * 1e-3, **MPEG, bitrate_mode="VARIABLE", compression_level=0.99))
    loud = frames_of(encode(noise(1), **MPEG, bitrate_mode="VARIABLE", compression_level=0.0))
    assert whole(loud + quiet * 4).size > 5 * 16000
    is_whole(b"".join(map(id3, tags[::2], tags[1::2])) + loud + quiet * 4, loud + quiet * 4)


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "CAF", "AU", "VOC", "NIST"])
def test_a_tag_before_other_files_is_no_part_of_them(kind):
    data = second_of(format=kind)
    tag = b"ID3\4\0\0" + bytes([0, 4, 0, 0]) + bytes(65536)
    is_whole(tag + data, data)
    if kind in ("WAV", "AIFF"):
        assert load(tag + data[:-9000])[1] == load(data[:-9000])[1] is not None


def test_tags_and_zeros_around_an_mp3_change_nothing():
    ape = b"APETAGEX" + struct.pack("<4I8x", 2000, 32, 0, 0)
    mp3 = encode(noise(1), **MPEG)
    for audio in (mp3, frames_of(mp3)):
        is_whole(id3(b"TIT2", b"x" * 300) + audio + ape + b"TAG".ljust(128) + bytes(5000), audio)
        is_whole(bytes(3000) + audio, audio)


def test_what_is_no_mpeg_audio_inside_an_mp3_is_told():
    mp3 = frames_of(encode(noise(1), **MPEG))
    out, incomplete = load(mp3 + b"junk" * 1000 + mp3)
    assert out.size == pytest.approx(2 * 16000, abs=0.1 * 16000)
    assert incomplete == f"{out.size / 16000:.1f} s: 4000 bytes that are no MPEG audio are left out"


# Files that end too early, or whose header was never finished


@pytest.mark.parametrize("kind", ["WAV", "RF64", "AIFF", "FLAC", "MP3"])
def test_of_a_file_cut_short_what_is_there_is_read_and_noted(tmp_path, kind):
    data = encode(noise(2, 16000), 16000, format=kind)
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    out, incomplete = load(path)
    assert 0.7 < out.size / 16000 < 1.1
    np.testing.assert_array_equal(out[:10000], whole(data)[:10000])
    assert incomplete == f"{out.size / 16000:.1f} s of the 2.0 s its header says"


def test_a_flac_of_large_frames_may_be_cut_anywhere():
    """libFLAC goes back to the beginning of a frame that is not whole, so where it stops does not tell."""
    flac = encode(noise(0.5, channels=2), format="FLAC", subtype="PCM_24")
    full = load_audio(io.BytesIO(flac), 44100)
    for length in range(40_000, len(flac), 7_001):
        out = load_audio(io.BytesIO(flac[:length]), 44100)
        np.testing.assert_array_equal(out, full[: out.size])
        assert out.size > length / len(flac) * full.size - 4096 and load(flac[:length])[1]


def test_an_mp3_without_a_header_that_ends_within_a_frame():
    mp3 = frames_of(encode(noise(1), **MPEG))
    for missing in (9, 100):
        assert load(mp3[:-missing])[1] == f"1.0 s: {CUT}"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_with_pages_missing_or_damaged(subtype):
    """Not told is that a stream begins late, or is behind other bytes."""
    ogg = encode(noise(3, 16000), 16000, format="OGG", subtype=subtype)
    pages = [match.start() for match in re.finditer(b"OggS\0", ogg)]
    first, middle, after = next(pages[i:] for i, at in enumerate(pages) if ogg[at + 6 : at + 14] != bytes(8))[:3]
    for damaged in (put(ogg, middle + 500, bytes([ogg[middle + 500] ^ 4])), ogg[:middle] + ogg[after:]):
        out, incomplete = load(damaged)
        assert out.size < 2.9 * 16000 and incomplete == f"{out.size / 16000:.1f} s of the 3.0 s its header says"
    for end in (pages[-1], pages[-1] + 100):
        out, incomplete = load(ogg[:end])
        assert out.size and incomplete == f"{out.size / 16000:.1f} s: {CUT}"
    out, incomplete = load(ogg[: pages[-1] + 100] + ogg)
    np.testing.assert_array_equal(out[-48000:], whole(ogg))
    assert incomplete == f"{out.size / 16000:.1f} s: {CUT}"
    whole(ogg[:first] + ogg[middle:])
    is_whole(id3(b"TIT2", b"x") + ogg + ogg + b"TAG".ljust(128), ogg, ogg)


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        ("WAV", {4: bytes(4), 40: bytes(4)}),
        ("WAV", {4: struct.pack("<I", 36), 40: bytes(4)}),
        ("WAV", {4: b"\xff" * 4, 40: bytes(4)}),
        ("AIFF", {b"SSND": struct.pack(">I", 8)}),
        ("RF64", {20: bytes(24)}),
    ],
)
def test_a_file_that_was_never_finished(kind, places):
    data = broken = second_of(format=kind)
    for place, content in places.items():
        at = place if isinstance(place, int) else broken.index(place) + len(place)
        broken = put(broken, at, content)
    out, incomplete = load(broken)
    np.testing.assert_array_equal(out, whole(data))
    assert incomplete == NEVER_FINISHED


def test_a_wav_from_a_pipe_says_nothing_of_its_length():
    wav = second_of(format="WAV")
    is_whole(put(wav, 40, b"\xff" * 4), wav)


def test_a_finished_wav_without_audio_is_empty():
    wav = encode(noise(0, 16000), 16000, format="WAV") + b"LIST" + struct.pack("<I", 100) + bytes(100)
    assert "zero samples; leave it out" in error_of(io.BytesIO(wav))


def test_bytes_behind_the_length_of_a_wav_are_told():
    """Whatever they are: samples, samples that look like a chunk, another file; but not a chunk, and not zeros."""
    wav = second_of(format="WAV")
    short = put(wav, 40, struct.pack("<I", 16000))
    for behind in (short, put(short, 44 + 16000, b"abcd")):
        out, incomplete = load(behind)
        assert out.size == 8000
        assert incomplete == "0.5 s: 16000 bytes behind the length that its header says are left out"
    out, incomplete = load(wav + wav)
    assert out.size == 16000 and f"{len(wav)} bytes behind the length" in incomplete
    is_whole(wav + bytes(9000), wav)
    is_whole(wav + b"LIST" + struct.pack("<I", 9000) + bytes(9000), wav)


@pytest.mark.skipif(os.name != "posix", reason="needs a sparse file")
def test_a_wav_over_4_gb_whose_length_wrapped_around(tmp_path):
    wav = second_of(format="WAV")
    length = (5 << 30) + 32000
    path = tmp_path / "long.wav"
    path.write_bytes(put(wav, 40, struct.pack("<I", length & 0xFFFFFFFF)))
    os.truncate(path, 44 + length)
    blocks = iter_blocks(path, 16000)
    np.testing.assert_array_equal(next(blocks)[:16000], whole(wav))
    assert sum(block.size for block, _ in zip(blocks, range(10), strict=False)) > 32000


# What is no audio


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b'{"error": "quota"}', b"version https://git-lfs"])
def test_of_text_under_the_name_of_audio_the_beginning_is_told(tmp_path, content):
    for name in ("dog.mp3", "dog.wav"):
        (tmp_path / name).write_bytes(content.ljust(5000))
        said = f"begins with {content.decode()!r}, libsndfile: Format not recognised"
        assert error_of(tmp_path / name) == f"{tmp_path / name}: not an audio file ({said}); convert it to WAV or FLAC"


def test_an_mp3_without_audio(tmp_path):
    mp3 = frames_of(encode(noise(1), **MPEG))
    one_frame = mp3[: mp3.index(mp3[:2], 4)]
    header = b"\xff\xfb\x90\x44" + b"x" * 5000
    for content in (one_frame, header, id3(b"TIT2", b"x") + header, bytes(5000)):
        (tmp_path / "a.mp3").write_bytes(content)
        said = "libsndfile: Format not recognised" if not any(content) else "no two MPEG frames follow one another"
        assert error_of(tmp_path / "a.mp3").startswith(f"{tmp_path / 'a.mp3'}: not an audio file ({said}); ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_a_pipe_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    said = "a.wav: a pipe, device or socket, no file; save what it gives to a file"
    assert error_of(tmp_path / "a.wav").endswith(said)


# ffmpeg


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Stands for ffmpeg on the path: gives a stream as the real one does, and notes its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    soundfile.write(folder / "out.au", noise(1, 16000, 2), 16000, subtype="FLOAT", endian="BIG")
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")

    def install(then=""):
        script = f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/arguments\n/bin/cat {folder}/out.au\n{then}\n'
        (folder / "ffmpeg").write_text(script)
        (folder / "ffmpeg").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return install


def test_other_formats_are_read_through_ffmpeg(tmp_path, ffmpeg, monkeypatch):
    folder = ffmpeg()
    (tmp_path / "a.m4a").rename(tmp_path / "-a.m4a")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_allclose(whole("-a.m4a"), noise(1, 16000, 2).mean(axis=1), atol=1e-7)
    arguments = (folder / "arguments").read_text().split("\n")
    assert "file:-a.m4a" in arguments and arguments[arguments.index("-protocol_whitelist") + 1] == "file,pipe"


def test_ffmpeg_that_ends_early_is_noted(tmp_path, ffmpeg):
    ffmpeg("echo first >&2; echo 'a.m4a: moov atom damaged' >&2; exit 1")
    out, incomplete = load(tmp_path / "a.m4a")
    assert out.size == 16000 and incomplete == "1.0 s: ffmpeg: a.m4a: moov atom damaged"


def test_ffmpeg_that_finds_no_audio(tmp_path, ffmpeg):
    folder = ffmpeg("echo 'Stream map matches no streams.' >&2; exit 1")
    (folder / "out.au").write_bytes(b"")
    (tmp_path / "a.wav").write_bytes(b"text " * 99)
    assert error_of(tmp_path / "a.m4a").endswith(
        "a.m4a: no audio that ffmpeg reads (Stream map matches no streams.); convert it to WAV or FLAC"
    )
    assert error_of(tmp_path / "a.wav").endswith("libsndfile: Format not recognised); convert it to WAV or FLAC")


def test_ffmpeg_ends_with_its_reader(tmp_path, ffmpeg):
    folder = ffmpeg(f"while :; do /bin/cat {tmp_path}/bin/out.au; done")
    blocks = iter_blocks(tmp_path / "a.m4a", 16000)
    assert next(blocks).size
    blocks.close()  # waits for it
    assert folder.exists()


def test_without_ffmpeg_its_formats_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    assert error_of(tmp_path / "a.m4a").endswith("convert it to WAV or FLAC, or install ffmpeg and pass a path")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("name", ["a.m4a", "a.mka", "a.mp3"])
def test_the_real_ffmpeg(tmp_path, name):
    soundfile.write(tmp_path / "a.wav", noise(1, 16000, 2), 16000)
    codec = ["-c:a", "alac", "-f", "ipod"] if name != "a.mka" else ["-c:a", "pcm_s16le"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", *codec, tmp_path / name], check=True)
    np.testing.assert_array_equal(load_audio(tmp_path / name, 16000), load_audio(tmp_path / "a.wav", 16000))
