import io
import os
import re
import shutil
import subprocess
from struct import pack

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

from mtslvr.audio.load import iter_blocks, load_audio
from mtslvr.audio.recordings import Notes
from mtslvr.errors import AudioError

CUT = "the file ends before its audio does"


def noise(seconds, rate=44100, channels=1, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal((int(seconds * rate), channels))).astype(np.float32)


SECOND = noise(1, 16000)


def encode(kind, samples=SECOND, rate=16000, subtype=None, **how):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype, **how)
    return file.getvalue()


def frames_of(mp3):
    """The frames behind the first one, which holds only the Info header; headers repeat their first two bytes."""
    return mp3[mp3.index(mp3[:2], 4) :]


def mpeg_frames(gain=1, **how):
    return frames_of(encode("MP3", gain * noise(1), 44100, **how))


def id3(name, text):
    frame = name + pack(">I2x", len(text) + 1) + b"\0" + text
    return b"ID3\3\0\0" + bytes([0, 0, len(frame) >> 7, len(frame) & 127]) + frame


def load(source):
    notes = Notes()
    source = io.BytesIO(source) if isinstance(source, bytes) else source
    blocks = list(iter_blocks(source, 16000, notes=notes))
    return np.concatenate(blocks), notes.incomplete


def whole(source):
    waveform, incomplete = load(source)
    assert incomplete is None
    return waveform


def assert_whole(source, *parts):
    assert_array_equal(whole(source), np.concatenate([whole(part) for part in parts]))


def assert_misses(source, said):
    waveform, incomplete = load(source)
    assert incomplete == f"{waveform.size / 16000:.1f} s{said}"
    return waveform


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


OGGS = [("OGG", 48000, 2, "VORBIS"), ("OGG", 48000, 2, "OPUS")]
MP3S = [("MP3", 16000, 1, None), ("MP3", 16000, 2, None), ("MP3", 44100, 1, None)]


@pytest.mark.parametrize(("kind", "rate", "channels", "subtype"), [*OGGS, ("FLAC", 44100, 2, None), *MP3S])
def test_joined_files_are_read_to_the_end(kind, rate, channels, subtype):
    first, tag = encode(kind, noise(0.6, 16000), 16000, subtype), id3(b"TIT2", b"second")
    second = encode(kind, noise(0.7, rate, channels, seed=1), rate, subtype)
    assert_whole(first + second + first, first, second, first)
    if kind != "OGG":
        assert_whole(tag + first + tag + second, first, second)
    if kind == "MP3" and (rate, channels) == (16000, 1):  # frames of one kind are one stream
        assert whole(first + frames_of(second)).size == pytest.approx(1.3 * 16000, abs=2000)
    elif kind == "MP3":
        assert_whole(frames_of(first) + frames_of(second), frames_of(first), frames_of(second))


def test_the_lengths_that_flac_and_mp3_claim():
    """0 is unknown, too few change nothing, too many are told; what follows the samples of a FLAC is no audio."""
    flac, mp3 = encode("FLAC"), encode("MP3", noise(1), 44100)
    for claimed in (0, 4000):
        assert_whole(put(flac, 22, pack(">I", claimed)), flac)
    assert_array_equal(assert_misses(put(flac, 22, pack(">I", 40000)), " of the 2.5 s its header says"), whole(flac))
    assert_whole(flac + b"TAG".ljust(128), flac)
    at = max(mp3.find(b"Info"), mp3.find(b"Xing"))
    for claimed in (1, 10):
        assert_whole(put(mp3, at + 8, pack(">I", claimed)), mp3)
    assert_whole(put(mp3, at + 4, bytes(4)), frames_of(mp3))


def test_tags_are_no_headers_of_length():
    loud = mpeg_frames(bitrate_mode="VARIABLE", compression_level=0.0)
    quiet = mpeg_frames(gain=1e-3, bitrate_mode="VARIABLE", compression_level=0.99)
    assert whole(loud + quiet * 4).size > 5 * 16000
    vbri = loud[:4].ljust(36, b"\0") + b"VBRI" + bytes(len(loud[: loud.index(loud[:2], 4)]) - 40)
    for before in (id3(b"TXXX", b"Info"), id3(b"TIT2", b"a") + id3(b"TXXX", b"Xing"), vbri):
        assert_whole(before + loud + quiet * 4, loud + quiet * 4)


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "CAF", "AU", "VOC", "NIST"])
def test_a_tag_before_other_files_is_no_part_of_them(kind):
    data = encode(kind)
    tag = b"ID3\4\0\0" + bytes([0, 4, 0, 0]) + bytes(65536)
    assert_whole(tag + data, data)
    if kind in ("WAV", "AIFF"):
        assert load(tag + data[:-9000])[1] == load(data[:-9000])[1] is not None


def test_what_surrounds_the_frames_of_an_mp3():
    ape = b"APETAGEX" + pack("<4I8x", 2000, 32, 0, 0)
    frames = mpeg_frames()
    for audio in (encode("MP3", noise(1), 44100), frames):
        assert_whole(id3(b"TIT2", b"x" * 300) + audio + ape + b"TAG".ljust(128) + bytes(5000), audio)
        assert_whole(bytes(3000) + audio, audio)
    junk = assert_misses(frames + b"junk" * 1000 + frames, ": 4000 bytes that are no MPEG audio are left out")
    assert junk.size == pytest.approx(2 * 16000, abs=0.1 * 16000)
    for missing in (9, 100):
        assert_misses(frames[:-missing], f": {CUT}")
    assert load(put(frames, frames.index(frames[:2], 4) + 21, b"Info"))[0].size == whole(frames).size  # is audio


@pytest.mark.parametrize("kind", ["WAV", "RF64", "AIFF", "FLAC", "MP3"])
def test_of_a_file_cut_short_what_is_there_is_read_and_noted(tmp_path, kind):
    data, path = encode(kind, noise(2, 16000)), tmp_path / f"a.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    out = assert_misses(path, " of the 2.0 s its header says")
    assert 0.7 < out.size / 16000 < 1.1
    assert_array_equal(out[:10000], whole(data)[:10000])


def test_a_flac_of_large_frames_may_be_cut_anywhere():
    """libFLAC goes back to the beginning of a frame that is not whole, so where it stops does not tell."""
    flac = encode("FLAC", noise(0.5, channels=2), 44100, "PCM_24")
    full = load_audio(io.BytesIO(flac), 44100)
    for length in range(40_000, len(flac), 7_001):
        out = load_audio(io.BytesIO(flac[:length]), 44100)
        assert_array_equal(out, full[: out.size])
        assert out.size > length / len(flac) * full.size - 4096 and load(flac[:length])[1]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_with_pages_missing_or_damaged(subtype):
    """Not told is that a stream begins late, or is behind other bytes."""
    ogg = encode("OGG", noise(3, 16000), 16000, subtype)
    pages = [match.start() for match in re.finditer(b"OggS\0", ogg)]
    first, middle, after = next(pages[i:] for i, at in enumerate(pages) if ogg[at + 6 : at + 14] != bytes(8))[:3]
    for damaged in (put(ogg, middle + 500, bytes([ogg[middle + 500] ^ 4])), ogg[:middle] + ogg[after:]):
        assert assert_misses(damaged, " of the 3.0 s its header says").size < 2.9 * 16000
    for end in (pages[-1], pages[-1] + 100):
        assert assert_misses(ogg[:end], f": {CUT}").size
    assert_array_equal(assert_misses(ogg[: pages[-1] + 100] + ogg, f": {CUT}")[-48000:], whole(ogg))
    whole(ogg[:first] + ogg[middle:])
    assert_whole(id3(b"TIT2", b"x") + ogg + ogg + b"TAG".ljust(128), ogg, ogg)


def test_a_file_that_was_never_finished():
    wav, rf64, aiff = map(encode, ("WAV", "RF64", "AIFF"))
    unfinished_wav = put(put(wav, 4, pack("<I", 36)), 40, bytes(4))
    unfinished_aiff = put(aiff, aiff.index(b"SSND") + 4, pack(">I", 8))
    for data, broken in ((wav, unfinished_wav), (rf64, put(rf64, 20, bytes(24))), (aiff, unfinished_aiff)):
        out = assert_misses(broken, ": its header was never finished; read to the end of the file")
        assert_array_equal(out, whole(data))


def test_the_length_that_a_wav_claims():
    """From a pipe it says nothing. Behind it samples and files are told, chunks and zeros are not."""
    wav = encode("WAV")
    assert_whole(put(wav, 40, b"\xff" * 4), wav)
    short = put(wav, 40, pack("<I", 16000))
    for behind in (short, put(short, 44 + 16000, b"abcd")):
        out = assert_misses(behind, ": 16000 bytes behind the length that its header says are left out")
        assert out.size == 8000
    out, incomplete = load(wav + wav)
    assert out.size == 16000 and f"{len(wav)} bytes behind the length" in incomplete
    assert_whole(wav + bytes(9000), wav)
    chunk = b"LIST" + pack("<I", 9000) + bytes(9000)
    assert_whole(wav + chunk, wav)
    assert "zero samples; leave it out" in error_of(io.BytesIO(encode("WAV", noise(0)) + chunk))


@pytest.mark.skipif(os.name != "posix", reason="needs a sparse file")
def test_a_wav_over_4_gb_whose_length_wrapped_around(tmp_path):
    wav, length, path = encode("WAV"), (4 << 30) + 32000, tmp_path / "long.wav"
    path.write_bytes(put(wav, 40, pack("<I", length & 0xFFFFFFFF)))
    os.truncate(path, 44 + length)
    blocks = iter_blocks(path, 16000)
    assert_array_equal(next(blocks)[:16000], whole(wav))
    assert sum(block.size for block, _ in zip(blocks, range(10), strict=False)) > 32000


def test_what_is_no_audio_is_told(tmp_path):
    frames = mpeg_frames()
    header = b"\xff\xfb\x90\x44" + b"x" * 5000
    unknown, no_frames = "libsndfile: Format not recognised", "no two MPEG frames follow one another"
    for name, content, said in (
        ("dog.mp3", b"<!DOCTYPE html>".ljust(5000), f"begins with '<!DOCTYPE html>', {unknown}"),
        ("dog.wav", b"version https://git-lfs".ljust(5000), f"begins with 'version https://git-lfs', {unknown}"),
        ("a.mp3", bytes(5000), unknown),
        ("a.mp3", header, no_frames),
        ("a.mp3", id3(b"TIT2", b"x") + header, no_frames),
        ("a.mp3", frames[: frames.index(frames[:2], 4)], no_frames),  # one frame alone
    ):
        (tmp_path / name).write_bytes(content)
        assert error_of(tmp_path / name).startswith(f"{tmp_path / name}: not an audio file ({said}); ")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "b.wav")  # does not block
        assert "b.wav: a pipe, device or socket, no file; save what it gives" in error_of(tmp_path / "b.wav")


def test_other_formats_are_read_through_ffmpeg(tmp_path, monkeypatch):
    def ffmpeg(then=""):
        """Stands for the real one: gives a stream as that does, and notes its arguments."""
        script = f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/arguments\n/bin/cat {folder}/out.au\n{then}\n'
        (folder / "ffmpeg").write_text(script)
        (folder / "ffmpeg").chmod(0o755)

    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "out.au").write_bytes(encode("AU", noise(1, 16000, 2), subtype="FLOAT", endian="BIG"))
    (tmp_path / "-a.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(folder))
    assert error_of("-a.m4a").endswith("convert it to WAV or FLAC, or install ffmpeg and pass a path")
    ffmpeg()
    assert_allclose(whole("-a.m4a"), noise(1, 16000, 2).mean(axis=1), atol=1e-7)
    arguments = (folder / "arguments").read_text().split("\n")
    assert "file:-a.m4a" in arguments and arguments[arguments.index("-protocol_whitelist") + 1] == "file,pipe"
    ffmpeg(f"while :; do /bin/cat {folder}/out.au; done")
    blocks = iter_blocks("-a.m4a", 16000)
    assert next(blocks).size
    blocks.close()  # waits until it is stopped
    ffmpeg("echo first >&2; echo 'a.m4a: moov atom damaged' >&2; exit 1")
    assert assert_misses("-a.m4a", ": ffmpeg: a.m4a: moov atom damaged").size == 16000
    ffmpeg("echo 'Stream map matches no streams.' >&2; exit 1")
    (folder / "out.au").write_bytes(b"")
    (tmp_path / "a.wav").write_bytes(b"text " * 99)
    assert error_of("-a.m4a").startswith("-a.m4a: no audio that ffmpeg reads (Stream map matches no streams.); convert")
    assert error_of("a.wav").endswith("libsndfile: Format not recognised); convert it to WAV or FLAC")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("name", ["a.m4a", "a.mka", "a.mp3"])
def test_the_real_ffmpeg(tmp_path, name):
    soundfile.write(tmp_path / "a.wav", noise(1, 16000, 2), 16000)
    codec = ["-c:a", "alac", "-f", "ipod"] if name != "a.mka" else ["-c:a", "pcm_s16le"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", *codec, tmp_path / name], check=True)
    assert_array_equal(load_audio(tmp_path / name, 16000), load_audio(tmp_path / "a.wav", 16000))
