"""What `-` and `@list.txt` stand for: audio or a list."""

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


def encoded(form, subtype=None):
    soundfile.write(file := io.BytesIO(), np.linspace(-0.1, 0.1, 4000), 16000, format=form, subtype=subtype)
    return file.getvalue()


def given(monkeypatch, data, kind="auto"):
    """The paths that `-` stands for with `data` on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return [os.fsencode(path) for path, _ in expand(["-"], kind)]


named_stdin = pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="standard input has no name")


@named_stdin
def test_audio_on_standard_input_is_told_by_its_first_bytes(monkeypatch):
    kept = os.dup(0)
    try:
        for form in ["WAV", "RF64", "FLAC", "OGG", "OGG:OPUS", "MP3", "AIFF", "AU", "CAF", "W64", "VOC", "NIST"]:
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), 0)
            data = encoded(*form.split(":"))
            assert given(monkeypatch, data) == [b"/dev/stdin"], form
            for _ in range(2):  # decoders open a file more than once
                with open("/dev/stdin", "rb") as file:
                    assert file.read() == data
        assert given(monkeypatch, bytes(5000) + encoded("MP3")) == [b"/dev/stdin"]
        assert load_audio("/dev/stdin", 16000).size == 4000
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_a_list_is_one_by_what_it_begins_with(monkeypatch, tmp_path):
    for data, paths in (
        (b"", []),
        (b"RIFF/a.wav\nOggS.ogg\n", [b"RIFF/a.wav", b"OggS.ogg"]),
        (b"\xef\xbb\xbfa.wav\r\n\r\n# b.wav\n./#c.wav\nd#1.wav", [b"a.wav", b"./#c.wav", b"d#1.wav"]),
        (b"#a\nb.wav\0\xff.wav\0", [b"#a\nb.wav", b"\xff.wav"]),
        (b"\x1b[31m.wav", [b"\x1b[31m.wav"]),
    ):
        assert given(monkeypatch, data) == paths
    assert given(monkeypatch, b"\x01.wav\n", kind="list") == [b"\x01.wav"]
    with pytest.raises(ConfigError, match="standard input: begins like text in UTF-16; give a list in UTF-8"):
        given(monkeypatch, "a.wav".encode("utf-16"))
    for data in (b"\x7fELF\2\1\1" + bytes(99), "a.wav".encode("utf-16"), encoded("WAV")):
        (tmp_path / "list").write_bytes(data)
        with pytest.raises(ConfigError, match="list: not a list of paths, but binary; an audio file is given without"):
            list(expand([f"@{tmp_path}/list"]))


@named_stdin
def test_the_audio_of_a_pipe_or_a_file_is_one_input(tmp_path):
    """Names in the working directory must not be read out of the audio's bytes."""
    (tmp_path / "x.wav").write_bytes(encoded("WAV") + b"\nx.wav\n")
    code = "from mtslvr.cli.inputs import expand; print(list(expand(['-'])))"
    with open(tmp_path / "x.wav", "rb") as file:
        for source in ({"input": (tmp_path / "x.wav").read_bytes()}, {"stdin": file}):
            done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=60, **source)
            assert done.stdout == b"[('/dev/stdin', '')]\n", done.stderr
