import dataclasses
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal

import mtslvr
from mtslvr.audio.load import Excerpt, load_audio
from mtslvr.cli.embed import embed_command
from mtslvr.config import Normalization

RATE = 16000
STEREO = (0.1 * np.random.default_rng(0).standard_normal((2, RATE))).astype(np.float32)


@pytest.fixture(scope="module")
def encoder(model):
    return mtslvr.load(model, device="cpu")


@pytest.fixture
def wav(tmp_path):
    soundfile.write(tmp_path / "stereo.wav", STEREO.T, RATE, subtype="FLOAT")
    return tmp_path / "stereo.wav"


@pytest.mark.filterwarnings("error")  # that something is missing
def test_a_part_is_what_cutting_the_waveform_gives(wav, encoder):
    soundfile.write(wav, STEREO.T, 11025)  # resampled as a whole, then cut
    part = load_audio(wav, RATE)[round(0.3 * RATE) : round(1.2 * RATE)]
    how = {"start": 0.3, "end": 1.2, "encoder": encoder}
    assert_array_equal(mtslvr.embed(wav, **how), mtslvr.embed(part, RATE, encoder=encoder))
    rows, spans = mtslvr.embed_windows(wav, hop_seconds=0.2, **how)
    expected, from_zero = mtslvr.embed_windows(part, RATE, hop_seconds=0.2, encoder=encoder)
    assert_array_equal(rows, expected)
    assert_allclose(spans, from_zero + 0.3)
    [result] = mtslvr.embed_files([wav], **how)
    assert_array_equal(result.embedding, mtslvr.embed(wav, **how))
    assert_allclose(result.spans, [[0.3, 1.2]])
    mono = STEREO.mean(axis=0)
    for part, how in ((mono[8000:], {"start": 0.5}), (mono[:4000], {"end": 0.25}), (mono, {"end": 1.04})):
        expected = mtslvr.embed(part, RATE, encoder=encoder)
        assert_array_equal(mtslvr.embed(STEREO, RATE, encoder=encoder, **how), expected)
    for kind in (np.float32, np.array, torch.tensor):
        assert Excerpt(start=kind(0.5), end=kind(2)) == Excerpt(start=0.5, end=2)
    expected = mtslvr.embed(wav, start=0.1, end=0.6, encoder=encoder)
    wav.write_bytes(wav.read_bytes()[:-10000])  # of a broken file the part before is read
    assert_array_equal(mtslvr.embed(wav, start=0.1, end=0.6, encoder=encoder), expected)


def test_channels_of_files_arrays_and_file_objects(wav, encoder):
    how = {"encoder": encoder, "end": 0.6}
    ones = [mtslvr.embed(wav, channels=channel, **how) for channel in (0, 1)]
    for channel, one in enumerate(ones):
        assert_array_equal(mtslvr.embed(STEREO[channel], RATE, **how), one)
        [result] = mtslvr.embed_files([wav], channels=channel, **how)
        assert_array_equal(result.embedding, one)
    assert_array_equal(mtslvr.embed(wav, channels="mix", **how), mtslvr.embed(wav, **how))
    assert_array_equal(mtslvr.embed(wav, channels="each", **how), ones)
    listed = mtslvr.embed([wav, STEREO], RATE, channels="each", **how)
    assert_allclose(listed, [ones, ones], rtol=0, atol=3e-6 * np.abs(ones).max())
    rows, spans = mtslvr.embed_windows(wav, channels="each", **how)
    assert rows.shape == (2, 3, 1000) and spans.shape == (3, 2)
    assert_array_equal(rows[1], mtslvr.embed_windows(wav, channels=1, **how)[0])

    def pipe():
        return SimpleNamespace(read=io.BytesIO(wav.read_bytes()).read)

    how["channels"] = "each"  # a file object that cannot seek is read once for all passes
    for found in (mtslvr.embed(pipe(), **how), mtslvr.embed([pipe()], **how)[0]):
        assert_array_equal(found, ones)
    assert_array_equal(mtslvr.embed_windows(pipe(), **how)[0], rows)
    twice = mtslvr.Encoder(dataclasses.replace(encoder.config, normalization=Normalization.FILE)).eval()
    assert_array_equal(mtslvr.embed(pipe(), encoder=twice), mtslvr.embed(wav, encoder=twice))


def test_what_is_not_there_is_named(wav, encoder):
    for how, message in (
        ({"start": 2}, "{}: start=2 s is beyond its end at 1.00 s; correct the times"),
        ({"start": 0.5, "end": 3}, "{}: end=3 s is beyond its end at 1.00 s; correct the times"),
        ({"start": 0.5, "end": 0.5 + 1e-7}, "{}: end=0.5000001: not a sample after start=0.5"),
        ({"channels": 2}, "{}: no channel 2, counted from 0, of 2; choose another"),
        ({"start": 0.5, "end": 0.2}, "end=0.2: must be after start=0.5; correct the times"),
        ({"start": -1}, "start=-1: must be a time in seconds from 0, or None"),
        ({"end": "1:30"}, "end='1:30': must be a time in seconds from 0, or None"),
        ({"start": "0.1"}, "start='0.1': must be a time in seconds from 0, or None"),
        ({"end": True}, "end=True: must be a time in seconds from 0, or None"),
        ({"channels": "left"}, "channels='left': must be 'mix' or the number of a channel"),
        ({"channels": True}, "channels=True: must be 'mix' or the number of a channel"),
        ({"channels": -1}, "channels=-1: must be 'mix' or the number of a channel"),
    ):
        with pytest.raises(mtslvr.AudioError if "{}" in message else mtslvr.ConfigError) as caught:
            mtslvr.embed(wav, encoder=encoder, **how)
        assert str(caught.value).startswith(message.format(wav))
    with pytest.raises(mtslvr.AudioError, match=rf"other numbers of channels \({wav} has 2, <array 1> has 1\)"):
        mtslvr.embed([wav, STEREO[0]], RATE, channels="each", encoder=encoder)
    with pytest.raises(mtslvr.ConfigError, match="channels='each': must be 'mix' or the number"):
        mtslvr.embed_files([wav], channels="each", encoder=encoder)


def test_the_command_keeps_rows_of_other_channels_apart(wav, encoder, model, tmp_path):
    out = str(tmp_path / "x.npz")

    def run(*options):
        return CliRunner().invoke(embed_command, [str(wav), "-o", out, "--model", str(model), *options])

    assert run("--channel", "1").exit_code == 0
    table = mtslvr.read_table(out)
    assert table.settings["channel"] == 1
    expected = mtslvr.embed(STEREO[1], RATE, encoder=encoder)
    assert_allclose(table.embeddings[0], expected, atol=1e-4 * np.abs(expected).max())
    refused = run()
    assert refused.exit_code == 2 and "begun with channel 1, now 'mix'" in refused.output
    refused = run("--channel", "left")
    assert refused.exit_code == 2 and "Error: --channel left: must be 'mix' or" in refused.output
    missing = run("--channel", "2", "--overwrite")
    assert missing.exit_code == 1 and "stereo.wav: no channel 2, counted from 0, of 2" in missing.output
    assert json.loads((tmp_path / "x.npz.errors.jsonl").read_text())["stage"] == "decode"
