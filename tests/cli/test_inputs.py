"""What `-` and `@list.txt` stand for: audio, a list, or neither."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from mtslvr.audio.load import load_audio
from mtslvr.cli.inputs import expand
from mtslvr.errors import ConfigError


def encoded(form, subtype=None, rate=16000):
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(4000), rate, format=form, subtype=subtype)
    return file.getvalue()


def given(monkeypatch, data, kind="auto"):
    """The paths that `-` stands for with `data` on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return [os.fsencode(path) for path, _ in expand(["-"], kind)]


@pytest.fixture
def own_stdin():
    """Standard input of this process, put back when the test is done."""
    kept = os.dup(0)
    yield
    os.dup2(kept, 0)
    os.close(kept)


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="standard input has no name")
@pytest.mark.parametrize(
    ("form", "subtype"),
    [("WAV", None), ("RF64", None), ("FLAC", None), ("OGG", None), ("OGG", "OPUS"), ("MP3", None), ("AIFF", None),
     ("AU", None), ("CAF", None), ("W64", None), ("VOC", None), ("NIST", None)],
)  # fmt: skip
def test_audio_on_standard_input_is_told_by_its_first_bytes(monkeypatch, own_stdin, form, subtype):
    data = encoded(form, subtype)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    assert given(monkeypatch, data) == [b"/dev/stdin"]
    for _ in range(2):  # decoders open a file more than once
        with open("/dev/stdin", "rb") as file:
            assert file.read() == data


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="standard input has no name")
def test_an_mp3_behind_zeros_on_standard_input_is_audio(monkeypatch, own_stdin):
    assert given(monkeypatch, bytes(2000) + encoded("MP3")) == [b"/dev/stdin"]
    assert load_audio("/dev/stdin", 16000).size == 4000


def test_a_list_on_standard_input_stays_one(monkeypatch):
    assert given(monkeypatch, b"") == []
    assert given(monkeypatch, b"RIFF/a.wav\nOggS.ogg\n") == [b"RIFF/a.wav", b"OggS.ogg"]
    assert given(monkeypatch, b"\xef\xbb\xbfa.wav\r\n\r\n# b.wav\n./#c.wav\nd#1.wav") == [
        b"a.wav", b"./#c.wav", b"d#1.wav",
    ]  # fmt: skip
    assert given(monkeypatch, b"#a\nb.wav\0\xff.wav\0") == [b"#a\nb.wav", b"\xff.wav"]
    assert given(monkeypatch, b"\x1b[31m.wav") == [b"\x1b[31m.wav"]
    assert given(monkeypatch, b"\x01.wav\n", kind="list") == [b"\x01.wav"]


@pytest.mark.parametrize("data", [b"\x7fELF\2\1\1" + bytes(99), "a.wav".encode("utf-16")])
def test_what_is_neither_is_refused(monkeypatch, tmp_path, data):
    with pytest.raises(ConfigError, match="neither audio nor text; say what it is with --stdin audio or --stdin list"):
        given(monkeypatch, data)
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(ConfigError, match="not a list of paths but neither audio nor text"):
        list(expand([f"@{tmp_path}/list"]))


def test_audio_given_as_a_list_file_is_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded("WAV"))
    with pytest.raises(ConfigError, match=r"a\.wav: not a list of paths but audio; an audio file is given without"):
        list(expand([f"@{tmp_path}/a.wav"]))


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="standard input has no name")
@pytest.mark.parametrize("piped", [True, False])
def test_the_audio_of_a_pipe_or_a_file_is_one_input(tmp_path, piped):
    """Names in the working directory must not be read out of the audio's bytes."""
    (tmp_path / "x.wav").write_bytes(encoded("WAV") + b"\nx.wav\n")
    code = "from mtslvr.cli.inputs import expand; print(list(expand(['-'])))"
    with open(tmp_path / "x.wav", "rb") as file:
        source = {"input": file.read()} if piped else {"stdin": file}
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=60, **source)
    assert done.stdout == b"[('/dev/stdin', '')]\n", done.stderr
