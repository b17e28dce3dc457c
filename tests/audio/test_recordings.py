"""Recordings whose headers, tags and lengths lie, or that libsndfile alone does not read to the end."""

import io
import os
import shutil
import struct
import subprocess

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


@pytest.mark.parametrize(("rate", "channels"), [(44100, 1), (44100, 2), (22050, 1)])
def test_joined_mp3s_are_read_to_the_end(rate, channels):
    first = encode(noise(0.6), **MPEG)
    second = encode(noise(0.7, rate, channels, seed=1), rate, **MPEG)
    expected = np.concatenate([whole(first), whole(second)])
    np.testing.assert_array_equal(whole(first + second), expected)
    np.testing.assert_array_equal(whole(first + id3(b"TIT2", b"second") + second), expected)


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (48000, 1), (16000, 1)])
def test_rate_or_channels_change_inside_an_mp3(rate, channels):
    first = frames_of(encode(noise(0.6), **MPEG))
    second = frames_of(encode(noise(0.7, rate, channels, seed=1), rate, **MPEG))
    np.testing.assert_array_equal(whole(first + second), np.concatenate([whole(first), whole(second)]))


def test_frames_of_one_kind_are_one_stream():
    first, second = encode(noise(0.6), **MPEG), frames_of(encode(noise(0.7, seed=1), **MPEG))
    assert whole(first + second).size == pytest.approx(1.3 * 16000, abs=2 * 0.0261 * 16000)


# Lengths that an MP3 claims


def id3(name, text):
    """An ID3v2.3 tag of one frame."""
    frame = name + struct.pack(">I2x", len(text) + 1) + b"\0" + text
    return b"ID3\3\0\0" + bytes([0, 0, len(frame) >> 7, len(frame) & 127]) + frame


@pytest.mark.parametrize("claimed", [1, 10])
def test_a_frame_count_that_is_too_small_changes_nothing(claimed):
    mp3 = encode(noise(1), **MPEG)
    at = info_of(mp3) + 8
    np.testing.assert_array_equal(whole(mp3[:at] + struct.pack(">I", claimed) + mp3[at + 4 :]), whole(mp3))


def test_an_info_header_without_a_frame_count():
    mp3 = encode(noise(1), **MPEG)
    at = info_of(mp3) + 4
    out = whole(mp3[:at] + bytes(4) + mp3[at + 4 :])
    np.testing.assert_array_equal(out, whole(frames_of(mp3)))


@pytest.mark.parametrize("tags", [(id3(b"TXXX", b"Info"),), (id3(b"TIT2", b"a"), id3(b"TXXX", b"Xing"))])
def test_tags_are_no_headers_of_length(tags):
    quiet = frames_of(encode(noise(1) * 1e-3, **MPEG, bitrate_mode="VARIABLE", compression_level=0.99))
    loud = frames_of(encode(noise(1), **MPEG, bitrate_mode="VARIABLE", compression_level=0.0))
    expected = whole(loud + quiet * 4)
    assert expected.size > 5 * 16000
    np.testing.assert_array_equal(whole(b"".join(tags) + loud + quiet * 4), expected)


@pytest.mark.parametrize("info", [True, False])
def test_tags_and_zeros_around_an_mp3_change_nothing(info, capfd):
    mp3 = encode(noise(1), **MPEG)
    mp3 = mp3 if info else frames_of(mp3)
    ape = b"APETAGEX" + struct.pack("<4I8x", 2000, 32, 0, 0)
    tagged = id3(b"TIT2", b"x" * 300) + mp3 + ape + b"TAG".ljust(128) + bytes(5000)
    np.testing.assert_array_equal(whole(tagged), whole(mp3))
    assert capfd.readouterr().err == ""


def test_what_is_no_mpeg_audio_inside_an_mp3_is_told(capfd):
    mp3 = frames_of(encode(noise(1), **MPEG))
    out, incomplete = load(mp3 + b"junk" * 1000 + mp3)
    assert out.size == pytest.approx(2 * 16000, abs=0.1 * 16000)
    assert incomplete == f"{out.size / 16000:.1f} s: 4000 bytes that are no MPEG audio are left out"
    assert capfd.readouterr().err == ""


def test_one_frame_is_no_mp3(tmp_path, capfd):
    mp3 = frames_of(encode(noise(1), **MPEG))
    (tmp_path / "a.mp3").write_bytes(mp3[: mp3.index(mp3[:2], 4)])
    message = error_of(tmp_path / "a.mp3")
    assert message == f"{tmp_path / 'a.mp3'}: not an audio file (no two MPEG frames follow one another); leave it out"
    assert capfd.readouterr().err == ""


# Files that end too early, or whose header was never finished


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "MP3"])
def test_of_a_file_cut_short_what_is_there_is_read_and_noted(tmp_path, kind, capfd):
    data = encode(noise(2, 16000), 16000, format=kind)
    full = whole(data)
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    notes = Notes()
    out = np.concatenate(list(iter_blocks(path, 16000, notes=notes)))
    assert 0.7 < out.size / 16000 < 1.1
    np.testing.assert_array_equal(out[:10000], full[:10000])
    there, claimed = notes.incomplete.split(" s of the ")
    assert float(there) == round(out.size / 16000, 1)
    assert claimed in ("2.0 s its header says", "2.1 s its header says")  # an MP3 has a margin on both sides
    assert capfd.readouterr().err == ""


def test_an_mp3_without_a_header_that_ends_within_a_frame():
    mp3 = frames_of(encode(noise(1), **MPEG))
    assert load(mp3[:-9])[1] == "1.0 s: the file ends before its audio does"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_without_its_last_page(subtype):
    data = encode(noise(2, 16000), 16000, format="OGG", subtype=subtype)
    out, incomplete = load(data[: data.rindex(b"OggS")])
    assert out.size and incomplete == f"{out.size / 16000:.1f} s: the file ends before its audio does"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_cut_within_a_page_hides_no_stream_behind_it(subtype):
    first, second = (encode(noise(2, 16000, seed=i), 16000, format="OGG", subtype=subtype) for i in range(2))
    out, incomplete = load(first[: first.rindex(b"OggS") + 100] + second)
    np.testing.assert_array_equal(out[-32000:], whole(second))
    assert "the file ends before its audio does" in incomplete


@pytest.mark.parametrize("size", [0, 36, 0xFFFFFFFF])
def test_a_wav_that_was_never_finished(size):
    wav = encode(noise(1, 16000), 16000, format="WAV")
    out, incomplete = load(wav[:4] + struct.pack("<I", size) + wav[8:40] + bytes(4) + wav[44:])
    np.testing.assert_array_equal(out, whole(wav))
    assert incomplete == "1.0 s: its header was never finished; read to the end of the file"


def test_other_files_that_were_never_finished():
    aiff, au, rf64 = (encode(noise(1, 16000), 16000, format=kind) for kind in ("AIFF", "AU", "RF64"))
    at = aiff.index(b"SSND") + 4
    killed = aiff[:at] + struct.pack(">I", 8) + aiff[at + 4 :]
    np.testing.assert_array_equal(load(killed)[0], whole(aiff))
    np.testing.assert_array_equal(load(au[:8] + bytes(4) + au[12:])[0], whole(au))
    np.testing.assert_array_equal(load(rf64[:20] + bytes(24) + rf64[44:])[0], whole(rf64))


def test_a_wav_from_a_pipe_says_nothing_of_its_length():
    wav = encode(noise(1, 16000), 16000, format="WAV")
    piped = wav[:4] + b"\xff" * 4 + wav[8:40] + b"\xff" * 4 + wav[44:]
    np.testing.assert_array_equal(whole(piped), whole(wav))


def test_a_finished_wav_without_audio_is_empty():
    wav = encode(noise(0, 16000), 16000, format="WAV") + b"LIST" + struct.pack("<I", 100) + bytes(100)
    assert "zero samples; leave it out" in error_of(io.BytesIO(wav))


def test_bytes_behind_the_length_of_a_wav_are_told():
    wav = encode(noise(1, 16000), 16000, format="WAV")
    out, incomplete = load(wav[:40] + struct.pack("<I", 16000) + wav[44:])
    assert out.size == 8000
    assert incomplete == "0.5 s: 16000 bytes behind the length that its header says are left out"
    assert load(wav + b"LIST" + struct.pack("<I", 9000) + bytes(9000))[1] is None
    assert load(wav + bytes(9000))[1] is None


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
    np.testing.assert_array_equal(next(iter_blocks(path, 16000))[:16000], load_audio(io.BytesIO(wav), 16000))


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
@pytest.mark.parametrize("name", ["dog.mp3", "dog.wav", "dog.au"])
def test_text_under_the_name_of_audio(tmp_path, name, content, said, capfd):
    (tmp_path / name).write_bytes(content.ljust(5000))
    assert error_of(tmp_path / name).startswith(f"{tmp_path / name}: not audio but {said}")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "content", [bytes(5000), b"\xff\xfb\x90\x44" + b"x" * 5000, id3(b"TIT2", b"x") + b"\xff\xfb\x90\x44" + b"x" * 5000]
)
def test_nothing_but_our_own_sentence_about_an_mp3_without_audio(tmp_path, content, capfd):
    (tmp_path / "a.mp3").write_bytes(content)
    assert error_of(tmp_path / "a.mp3").startswith(f"{tmp_path / 'a.mp3'}: not an audio file (")
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_a_pipe_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    assert error_of(tmp_path / "a.wav").endswith(
        "a.wav: a pipe, device or socket, no file; save what it gives to a file"
    )


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


def test_samples_behind_the_length_of_a_wav_that_look_like_a_chunk_are_told():
    wav = encode(noise(1, 16000), 16000, format="WAV")
    wav = wav[:40] + struct.pack("<I", 16000) + wav[44:16044] + b"abcd" + wav[16048:]
    assert "16000 bytes behind the length" in load(wav)[1]


def test_a_second_wav_behind_the_first_is_told(tmp_path):
    wav = encode(noise(1, 16000), 16000, format="WAV")
    (tmp_path / "joined.wav").write_bytes(wav + wav)
    notes = Notes()
    assert sum(block.size for block in iter_blocks(tmp_path / "joined.wav", 16000, notes=notes)) == 16000
    assert f"{len(wav)} bytes behind the length" in notes.incomplete
