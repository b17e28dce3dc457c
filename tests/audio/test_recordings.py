"""Recordings whose headers, tags and lengths lie, or that libsndfile alone does not read to the end."""

import io
import os
import shutil
import struct
import subprocess
import time

import numpy as np
import pytest
import soundfile

from mtslvr.audio.layout import lay_out
from mtslvr.audio.load import iter_blocks, load_audio
from mtslvr.audio.recordings import Notes
from mtslvr.errors import AudioError

MPEG = {"format": "MP3"}


def noise(seconds, rate=44100, channels=1, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal((int(seconds * rate), channels))).astype(np.float32)


def encode(samples, rate=44100, **how):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **how)
    return file.getvalue()


def frames_of(mp3):
    """The frames behind the first one, which holds only the Info header; headers repeat their first two bytes."""
    return mp3[mp3.index(mp3[:2], 4) :]


def info_of(mp3):
    return max(mp3.find(b"Info"), mp3.find(b"Xing"))


def load(data):
    notes = Notes()
    blocks = list(iter_blocks(io.BytesIO(data), 16000, notes=notes))
    return np.concatenate(blocks), notes.incomplete


def whole(data):
    """The waveform, of which nothing is missing."""
    waveform, incomplete = load(data)
    assert incomplete is None
    return waveform


def error_of(source, **how):
    with pytest.raises(AudioError) as caught:
        load_audio(source, 16000, **how)
    return str(caught.value)


# Several streams in one file


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_chained_ogg_is_read_to_its_end(tmp_path, subtype):
    first = encode(noise(0.6, 16000), 16000, format="OGG", subtype=subtype)
    second = encode(noise(0.7, 48000, 2, seed=1), 48000, format="OGG", subtype=subtype)
    expected = np.concatenate([whole(first), whole(second), whole(first)])
    np.testing.assert_array_equal(whole(first + second + first), expected)
    path = tmp_path / "chain.ogg"
    path.write_bytes(first + second + first)
    np.testing.assert_array_equal(load_audio(path, 16000), expected)


def test_joined_flacs_are_read_to_the_end():
    first, second = encode(noise(0.6), format="FLAC"), encode(noise(0.7, 16000, 2, seed=1), 16000, format="FLAC")
    tag = id3(b"TIT2", b"second")
    for joined in (first + second, tag + first + tag + second):
        np.testing.assert_array_equal(whole(joined), np.concatenate([whole(first), whole(second)]))


@pytest.mark.parametrize(("rate", "channels"), [(44100, 1), (44100, 2), (16000, 1)])
def test_joined_mp3s_are_read_to_the_end(rate, channels):
    """With a header of lengths or a tag between them, or as a change of rate or channels between two frames."""
    first, second = encode(noise(0.6), **MPEG), encode(noise(0.7, rate, channels, seed=1), rate, **MPEG)
    expected = np.concatenate([whole(first), whole(second)])
    np.testing.assert_array_equal(whole(first + second), expected)
    np.testing.assert_array_equal(whole(first + id3(b"TIT2", b"second") + second), expected)
    first, second = frames_of(first), frames_of(second)
    if (rate, channels) != (44100, 1):
        np.testing.assert_array_equal(whole(first + second), np.concatenate([whole(first), whole(second)]))


def test_frames_of_one_kind_are_one_stream():
    first, second = encode(noise(0.6), **MPEG), frames_of(encode(noise(0.7, seed=1), **MPEG))
    assert whole(first + second).size == pytest.approx(1.3 * 16000, abs=2 * 0.0261 * 16000)


# Lengths that a header claims


def id3(name, text):
    """An ID3v2.3 tag of one frame."""
    frame = name + struct.pack(">I2x", len(text) + 1) + b"\0" + text
    return b"ID3\3\0\0" + bytes([0, 0, len(frame) >> 7, len(frame) & 127]) + frame


@pytest.mark.parametrize("claimed", [0, 4000, 40000])
def test_the_number_of_samples_that_a_flac_claims(claimed):
    """0 is unknown, too few change nothing, too many are told; what follows the samples of the header is no audio."""
    flac = encode(noise(1, 16000), 16000, format="FLAC")
    assert flac[21:26] == struct.pack(">BI", flac[21], 16000)
    out, incomplete = load(flac[:22] + struct.pack(">I", claimed) + flac[26:])
    np.testing.assert_array_equal(out, whole(flac))
    assert incomplete == ("1.0 s of the 2.5 s its header says" if claimed == 40000 else None)
    np.testing.assert_array_equal(whole(flac + b"TAG".ljust(128)), out)


@pytest.mark.parametrize("claimed", [1, 10])
def test_a_frame_count_that_is_too_small_changes_nothing(claimed):
    mp3 = encode(noise(1), **MPEG)
    at = info_of(mp3) + 8
    np.testing.assert_array_equal(whole(mp3[:at] + struct.pack(">I", claimed) + mp3[at + 4 :]), whole(mp3))


def test_an_info_header_without_a_frame_count():
    mp3 = encode(noise(1), **MPEG)
    at = info_of(mp3) + 4
    np.testing.assert_array_equal(whole(mp3[:at] + bytes(4) + mp3[at + 4 :]), whole(frames_of(mp3)))


@pytest.mark.parametrize("tags", [(id3(b"TXXX", b"Info"),), (id3(b"TIT2", b"a"), id3(b"TXXX", b"Xing"))])
def test_tags_are_no_headers_of_length(tags):
    quiet = frames_of(encode(noise(1) * 1e-3, **MPEG, bitrate_mode="VARIABLE", compression_level=0.99))
    loud = frames_of(encode(noise(1), **MPEG, bitrate_mode="VARIABLE", compression_level=0.0))
    expected = whole(loud + quiet * 4)
    assert expected.size > 5 * 16000
    np.testing.assert_array_equal(whole(b"".join(tags) + loud + quiet * 4), expected)


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "CAF", "AU", "VOC", "NIST"])
def test_a_tag_before_other_files_is_no_part_of_them(kind):
    data = encode(noise(1, 16000), 16000, format=kind)
    tag = b"ID3\4\0\0" + bytes([0, 4, 0, 0]) + bytes(65536)
    np.testing.assert_array_equal(whole(tag + data), whole(data))
    assert load(tag + data[:-9000])[1] == load(data[:-9000])[1]


@pytest.mark.parametrize("info", [True, False])
def test_tags_and_zeros_around_an_mp3_change_nothing(info, capfd):
    mp3 = encode(noise(1), **MPEG)
    mp3 = mp3 if info else frames_of(mp3)
    ape = b"APETAGEX" + struct.pack("<4I8x", 2000, 32, 0, 0)
    tagged = id3(b"TIT2", b"x" * 300) + mp3 + ape + b"TAG".ljust(128) + bytes(5000)
    np.testing.assert_array_equal(whole(tagged), whole(mp3))
    np.testing.assert_array_equal(whole(bytes(3000) + mp3), whole(mp3))
    assert capfd.readouterr().err == ""


def test_what_is_no_mpeg_audio_inside_an_mp3_is_told(capfd):
    mp3 = frames_of(encode(noise(1), **MPEG))
    out, incomplete = load(mp3 + b"junk" * 1000 + mp3)
    assert out.size == pytest.approx(2 * 16000, abs=0.1 * 16000)
    assert incomplete == f"{out.size / 16000:.1f} s: 4000 bytes that are no MPEG audio are left out"
    assert capfd.readouterr().err == ""


def test_a_long_run_of_ones_behind_an_mp3_is_passed_over_fast():
    mp3 = encode(noise(1), **MPEG)
    began = time.monotonic()
    out, incomplete = load(mp3 + b"\xff" * (8 << 20))
    assert time.monotonic() - began < 5
    np.testing.assert_array_equal(out, whole(mp3))
    assert incomplete == f"1.0 s: {8 << 20} bytes that are no MPEG audio are left out"


# Files that end too early, or whose header was never finished


KINDS = [
    *({"format": kind} for kind in ("WAV", "RF64", "W64", "AIFF", "CAF", "AU", "VOC", "NIST", "FLAC", "MP3")),
    {"format": "WAV", "endian": "BIG"},
    {"format": "AU", "endian": "LITTLE"},
    {"format": "NIST", "subtype": "ULAW"},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_of_a_file_cut_short_what_is_there_is_read_and_noted(tmp_path, kind, capfd):
    data = encode(noise(2, 16000), 16000, **kind)
    full = whole(data)
    path = tmp_path / f"a.{kind['format'].lower()}"
    path.write_bytes(data[: len(data) // 2])
    notes = Notes()
    out = np.concatenate(list(iter_blocks(path, 16000, notes=notes)))
    assert 0.7 < out.size / 16000 < 1.1
    np.testing.assert_array_equal(out[:10000], full[:10000])
    assert notes.incomplete == f"{out.size / 16000:.1f} s of the 2.0 s its header says"
    assert capfd.readouterr().err == ""


def test_a_flac_of_large_frames_may_be_cut_anywhere():
    """libFLAC goes back to the beginning of a frame that is not whole, so where it stops does not tell."""
    flac = encode(noise(0.5, channels=2), format="FLAC", subtype="PCM_24")
    for length in range(40_000, len(flac), 7_001):
        out, incomplete = load(flac[:length])
        assert out.size and incomplete


def test_an_mp3_without_a_header_that_ends_within_a_frame(capfd):
    mp3 = frames_of(encode(noise(1), **MPEG))
    for missing in (9, 100):
        assert load(mp3[:-missing])[1] == "1.0 s: the file ends before its audio does"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_without_its_last_page_or_cut_within_it(subtype):
    first, second = (encode(noise(2, 16000, seed=i), 16000, format="OGG", subtype=subtype) for i in range(2))
    last = first.rindex(b"OggS")
    out, incomplete = load(first[:last])
    assert out.size and incomplete == f"{out.size / 16000:.1f} s: the file ends before its audio does"
    out, incomplete = load(first[: last + 100] + second)
    np.testing.assert_array_equal(out[-32000:], whole(second))
    assert "the file ends before its audio does" in incomplete


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_damaged_or_missing_page_of_an_ogg_is_told(subtype):
    """But not that a stream begins late, or is behind other bytes."""
    ogg = encode(noise(3, 16000), 16000, format="OGG", subtype=subtype)
    places = [at for at in range(len(ogg)) if ogg.startswith(b"OggS\0", at)]
    first = next(at for at in places if ogg[at + 6 : at + 14] != bytes(8))
    middle, after = places[places.index(first) + 1 :][:2]
    for at in (first + 1000, first, middle + 500):
        out, incomplete = load(ogg[:at] + bytes([ogg[at] ^ 4]) + ogg[at + 1 :])
        seconds = f"{out.size / 16000:.1f} s"
        assert out.size < 2.9 * 16000
        assert incomplete in (
            f"{seconds}: 1 damaged or missing page is left out",
            f"{seconds} of the 3.0 s its header says",
        )
    assert load(ogg[:middle] + ogg[after:])[1]
    whole(ogg[:first] + ogg[middle:])
    whole(id3(b"TIT2", b"x") + ogg + ogg + b"TAG".ljust(128))


@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF])
def test_a_wav_that_was_never_finished(riff):
    wav = encode(noise(1, 16000), 16000, format="WAV")
    out, incomplete = load(wav[:4] + struct.pack("<I", riff) + wav[8:40] + bytes(4) + wav[44:])
    np.testing.assert_array_equal(out, whole(wav))
    assert incomplete == "1.0 s: its header was never finished; read to the end of the file"


@pytest.mark.parametrize(
    ("kind", "chunk", "behind", "length"),
    [
        ("AIFF", b"SSND", 4, struct.pack(">I", 8)),
        ("AU", b".snd", 8, bytes(4)),
        ("RF64", b"ds64", 8, bytes(24)),
        ("CAF", b"data", 4, struct.pack(">Q", 4)),
        ("CAF", b"data", 4, bytes(8)),
        ("W64", b"data", 16, struct.pack("<Q", 24)),
    ],
)
def test_other_files_that_were_never_finished(kind, chunk, behind, length):
    data = encode(noise(1, 16000), 16000, format=kind)
    at = data.index(chunk) + behind
    out, incomplete = load(data[:at] + length + data[at + len(length) :])
    np.testing.assert_array_equal(out, whole(data))
    assert incomplete == "1.0 s: its header was never finished; read to the end of the file"


@pytest.mark.parametrize(("kind", "length"), [("WAV", b"\xff" * 4), ("CAF", b"\xff" * 8)])
def test_a_file_from_a_pipe_says_nothing_of_its_length(kind, length):
    data = encode(noise(1, 16000), 16000, format=kind)
    at = data.index(b"data") + 4
    np.testing.assert_array_equal(whole(data[:at] + length + data[at + len(length) :]), whole(data))


def test_a_finished_wav_without_audio_is_empty():
    wav = encode(noise(0, 16000), 16000, format="WAV") + b"LIST" + struct.pack("<I", 100) + bytes(100)
    assert "zero samples; leave it out" in error_of(io.BytesIO(wav))


@pytest.mark.parametrize(("kind", "length", "empty"), [("WAV", "<I", 0), ("W64", "<12xQ", 24)])
def test_bytes_behind_the_length_of_a_file_are_told(kind, length, empty):
    """Whatever they are: samples, samples that look like a chunk, another file; but not a chunk, and not zeros."""
    data = encode(noise(1, 16000), 16000, format=kind)
    at = data.index(b"data", 30) + 4
    skipped, end = struct.calcsize(length) - struct.calcsize(length[-1]), at + struct.calcsize(length)
    short = data[: at + skipped] + struct.pack("<" + length[-1], 16000 + empty) + data[end:]
    for behind in (short, short[: end + 16000] + b"abcd" + short[end + 16004 :]):
        out, incomplete = load(behind)
        assert out.size == 8000
        assert incomplete == "0.5 s: 16000 bytes behind the length that its header says are left out"
    out, incomplete = load(data + data)
    assert out.size == 16000 and f"{len(data)} bytes behind the length" in incomplete
    np.testing.assert_array_equal(whole(data + bytes(9000)), whole(data))
    if kind == "WAV":
        np.testing.assert_array_equal(whole(data + b"LIST" + struct.pack("<I", 9000) + bytes(9000)), whole(data))


@pytest.mark.parametrize(
    "kind",
    [
        *({"format": "VOC", "subtype": subtype} for subtype in ("PCM_U8", "PCM_16")),
        *({"format": "NIST", "subtype": subtype} for subtype in ("PCM_16", "ULAW")),
        {"format": "WAV", "endian": "BIG"},
        {"format": "AU", "endian": "LITTLE"},
    ],
    ids=lambda kind: "-".join(kind.values()),
)
def test_bytes_behind_the_length_of_rarer_files_are_told(kind):
    data = encode(noise(1, 16000), 16000, **kind)
    out, incomplete = load(data + b"\1\2" * 10000)
    np.testing.assert_array_equal(out, whole(data))
    assert incomplete == "1.0 s: 20000 bytes behind the length that its header says are left out"


def test_a_sample_count_of_a_nist_file_that_is_too_small():
    data = encode(noise(1, 16000), 16000, format="NIST")
    out, incomplete = load(data.replace(b"sample_count -i 16000", b"sample_count -i 08000"))
    assert out.size == 8000 and "16000 bytes behind the length" in incomplete
    out, incomplete = load(data.replace(b"sample_count -i 16000", b"sample_count -i 00000"))
    assert out.size == 16000 and "never finished" in incomplete


@pytest.mark.skipif(os.name != "posix", reason="needs a sparse file")
def test_a_wav_over_4_gb_whose_length_wrapped_around(tmp_path):
    wav = encode(noise(1, 16000), 16000, format="WAV")
    length = (5 << 30) + 32000
    path = tmp_path / "long.wav"
    path.write_bytes(wav[:40] + struct.pack("<I", length & 0xFFFFFFFF) + wav[44:])
    os.truncate(path, 44 + length)
    with open(path, "rb") as file:
        [stream] = lay_out(file, "long.wav", ".wav").streams
        assert soundfile.info(stream.file).frames == length // 2
    np.testing.assert_array_equal(next(iter_blocks(path, 16000))[:16000], whole(wav))


# What is no audio


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html>", "a web page (begins with '<!DOCTYPE html>'); download it again"),
        (b"\xef\xbb\xbf\n <HTML><head>", "a web page (begins with '<HTML><head>"),
        (b'<?xml version="1.0"?>', 'an XML document (begins with \'<?xml version="1.0"?'),
        (b'{"error": "quota"}', 'a JSON document (begins with \'{"error": "quota"}'),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS (begins with 'version https://git-"),
    ],
)
def test_text_under_the_name_of_audio(tmp_path, content, said, capfd):
    for name in ("dog.mp3", "dog.wav"):
        (tmp_path / name).write_bytes(content.ljust(5000))
        assert error_of(tmp_path / name).startswith(f"{tmp_path / name}: not audio but {said}")
    assert capfd.readouterr().err == ""


def test_nothing_but_our_own_sentence_about_an_mp3_without_audio(tmp_path, capfd):
    mp3 = frames_of(encode(noise(1), **MPEG))
    one_frame = mp3[: mp3.index(mp3[:2], 4)]
    header = b"\xff\xfb\x90\x44" + b"x" * 5000
    for content in (one_frame, header, id3(b"TIT2", b"x") + header, bytes(5000)):
        (tmp_path / "a.mp3").write_bytes(content)
        said = "libsndfile: Format not recognised" if not any(content) else "no two MPEG frames follow one another"
        assert error_of(tmp_path / "a.mp3").startswith(f"{tmp_path / 'a.mp3'}: not an audio file ({said}); ")
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_a_pipe_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    said = "a.wav: a pipe, device or socket, no file; save what it gives to a file"
    assert error_of(tmp_path / "a.wav").endswith(said)


def test_a_rate_under_1_khz_is_refused():
    message = error_of(io.BytesIO(encode(noise(9, 500), 500, format="WAV")))
    assert message == "<file object>: sample_rate=500: must be a whole number of Hz from 1000 to 768000"


# What is lost by resampling


@pytest.mark.parametrize(("rate", "hz", "lost"), [(48000, 12000, True), (48000, 1000, False), (16000, 5000, False)])
def test_content_above_half_of_the_target_rate_is_noted(rate, hz, lost):
    time = np.arange(3 * rate) / rate
    loud, faint = 0.5 * np.sin(2 * np.pi * 500 * time), 0.05 * np.sin(2 * np.pi * hz * time)
    notes = Notes()
    for _ in iter_blocks(loud + faint, 16000, sample_rate=rate, notes=notes):
        pass
    assert notes.above_half is lost


# ffmpeg


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Stands for ffmpeg on the path: gives a stream as the real one does, and notes its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    soundfile.write(folder / "out.au", noise(1, 16000, 2), 16000, subtype="FLOAT", endian="BIG")

    def install(then=""):
        script = f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/arguments\n/bin/cat {folder}/out.au\n{then}\n'
        (folder / "ffmpeg").write_text(script)
        (folder / "ffmpeg").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return install


def test_other_formats_are_read_through_ffmpeg(tmp_path, ffmpeg, monkeypatch):
    folder = ffmpeg()
    (tmp_path / "-a.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    monkeypatch.chdir(tmp_path)
    notes = Notes()
    out = np.concatenate(list(iter_blocks("-a.m4a", 16000, notes=notes)))
    np.testing.assert_allclose(out, noise(1, 16000, 2).mean(axis=1), atol=1e-7)
    assert notes.incomplete is None
    arguments = (folder / "arguments").read_text().split("\n")
    assert "file:-a.m4a" in arguments and arguments[arguments.index("-protocol_whitelist") + 1] == "file,pipe"


def test_ffmpeg_that_ends_early_is_noted(tmp_path, ffmpeg):
    ffmpeg("echo first >&2; echo 'a.m4a: moov atom damaged' >&2; exit 1")
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    notes = Notes()
    assert sum(map(len, iter_blocks(tmp_path / "a.m4a", 16000, notes=notes))) == 16000
    assert notes.incomplete == "1.0 s: ffmpeg: a.m4a: moov atom damaged"


def test_ffmpeg_that_finds_no_audio(tmp_path, ffmpeg):
    folder = ffmpeg("echo 'Stream map matches no streams.' >&2; exit 1")
    (folder / "out.au").write_bytes(b"")
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x20ftypmp42")
    (tmp_path / "a.wav").write_bytes(b"text " * 99)
    assert error_of(tmp_path / "a.mp4").endswith(
        "a.mp4: no audio that ffmpeg reads (Stream map matches no streams.); convert it to WAV or FLAC"
    )
    assert error_of(tmp_path / "a.wav").endswith("(libsndfile: Format not recognised); convert it to WAV or FLAC")


def test_ffmpeg_ends_with_its_reader(tmp_path, ffmpeg):
    folder = ffmpeg(f"while :; do /bin/cat {tmp_path}/bin/out.au; done")
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
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
