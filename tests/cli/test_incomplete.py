"""Recordings that are cut short, lose content above 8 kHz, or cannot be read here: what a run says about them."""

import io
import json

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.embed import embed_command
from mtslvr.models import checkpoint
from mtslvr.run.table import read_table


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    config = mtslvr.EncoderConfig(window_seconds=0.25)
    return checkpoint.save(mtslvr.Encoder(config), tmp_path_factory.mktemp("model"))


@pytest.fixture
def audio(tmp_path, monkeypatch):
    """One file cut to its half, one whole with content above 8 kHz, one that only ffmpeg could read."""
    monkeypatch.setenv("PATH", "")
    samples = 0.1 * np.random.default_rng(0).standard_normal(96000)
    wav = io.BytesIO()
    soundfile.write(wav, samples[:16000], 16000, format="WAV")
    (tmp_path / "cut.wav").write_bytes(wav.getvalue()[: 44 + 16000])
    soundfile.write(tmp_path / "whole.wav", samples, 96000)
    (tmp_path / "video.mp4").touch()
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(embed_command, [str(a) for a in arguments])


def test_a_cut_recording_is_embedded_with_a_warning(audio, model, tmp_path):
    result = run(audio, "-o", tmp_path / "x.npz", "--model", model, "--json")
    assert result.exit_code == 0
    assert f"incomplete {audio}/cut.wav: 0.5 s of the 1.0 s its header says" in result.output
    assert "2 files embedded (1 incomplete)" in result.output
    assert "1 files have content above 8 kHz, of which nothing counts" in result.output
    assert "1 file left out: 1 .mp4; install ffmpeg to read them" in result.output
    [line] = (tmp_path / "x.npz.errors.jsonl").read_text().splitlines()
    message = "0.5 s of the 1.0 s its header says"
    assert json.loads(line) == {"file": f"{audio}/cut.wav", "stage": "warning", "message": message}
    report = json.loads(next(line for line in result.output.splitlines() if line.startswith("{")))
    assert (report["incomplete"], report["above_half"], report["failed"]) == (1, 1, 0)
    assert report["errors"] == f"{tmp_path}/x.npz.errors.jsonl"
    again = run(audio, "-o", tmp_path / "x.npz", "--model", model)  # of what is there already the log still tells
    assert again.exit_code == 0 and (tmp_path / "x.npz.errors.jsonl").read_text() == line + "\n"


@pytest.mark.parametrize("output", ["x.npz", "-"])
def test_a_cut_recording_counts_as_broken_where_that_is_asked(audio, model, tmp_path, output):
    out = output if output == "-" else tmp_path / output
    result = run(audio, "-o", out, "--model", model, "--on-truncated", "error")
    assert result.exit_code == 1
    assert f"skipped {audio}/cut.wav: 0.5 s of the 1.0 s its header says; repair it" in result.output
    if output != "-":
        assert read_table(out).paths == ("whole.wav",)


def test_embed_warns_of_a_cut_recording(audio):
    encoder = mtslvr.Encoder(mtslvr.EncoderConfig(window_seconds=0.25)).eval()
    with pytest.warns(UserWarning, match=r"cut.wav: 0.5 s of the 1.0 s its header says; what is there is embedded"):
        assert np.isfinite(mtslvr.embed(audio / "cut.wav", encoder=encoder)).all()
