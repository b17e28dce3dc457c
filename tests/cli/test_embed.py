"""mtslvr-embed on generated files: what it writes, what it says, how it exits."""

import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.embed import embed_command
from mtslvr.models import checkpoint
from mtslvr.run.table import read_table as read_npz


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    return checkpoint.save(mtslvr.Encoder(mtslvr.EncoderConfig()), tmp_path_factory.mktemp("model"))


def noise(seconds, rate, channels=1, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal((int(seconds * rate), channels))


@pytest.fixture
def folder(tmp_path):
    """Every kind of file a user may have, good and bad."""
    root = tmp_path / "audio"
    (root / "deep" / "er").mkdir(parents=True)
    soundfile.write(root / "a.wav", noise(1, 16000), 16000)
    soundfile.write(root / "b.FLAC", noise(0.5, 44100, 2), 44100, format="FLAC")
    soundfile.write(root / "c.ogg", noise(0.5, 8000), 8000)
    soundfile.write(root / "d.mp3", noise(0.5, 16000), 16000)
    soundfile.write(root / "e.aiff", noise(0.5, 16000), 16000)
    soundfile.write(root / "f.opus", noise(0.5, 48000), 48000, format="OGG", subtype="OPUS")
    soundfile.write(root / "double.wav", noise(0.5, 16000), 16000, subtype="DOUBLE")
    soundfile.write(root / "silence.wav", np.zeros(8000), 16000)
    soundfile.write(root / "one_sample.wav", np.ones(1), 16000)
    soundfile.write(root / "deep" / "er" / "a.wav", noise(7, 16000, seed=1), 16000)
    (root / "notes.txt").write_text("no audio, not even by its name")
    return root


BAD = ("corrupt.wav", "empty.wav", "no_samples.wav", "nan.wav", "inf.wav")


@pytest.fixture
def broken(folder):
    """The same folder with five broken files among the good ones."""
    (folder / "corrupt.wav").write_bytes(b"RIFF" + bytes(range(200)))
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "no_samples.wav", np.zeros(0), 16000)
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        samples = noise(0.5, 16000)
        samples[100] = value
        soundfile.write(folder / name, samples, 16000, subtype="FLOAT")
    return folder


def run(*arguments):
    return CliRunner().invoke(embed_command, [str(a) for a in arguments])


def test_a_folder_becomes_one_row_a_file_with_relative_names(folder, model, tmp_path):
    result = run(folder, "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 0, result.output
    table = read_npz(tmp_path / "out.npz")
    assert table.embeddings.shape == (10, 1000) and table.embeddings.dtype == np.float32
    assert np.isfinite(table.embeddings).all()
    assert set(table.paths) == {
        "a.wav", "b.FLAC", "c.ogg", "d.mp3", "e.aiff", "f.opus", "double.wav", "silence.wav", "one_sample.wav",
        "deep/er/a.wav",
    }  # fmt: skip
    row = table.paths.index("deep/er/a.wav")
    assert (table.start[row], table.end[row]) == (0.0, 7.0)
    assert table.settings["features"] == "concat" and table.settings["complete"] is True
    alone = mtslvr.embed(folder / "deep" / "er" / "a.wav", encoder=mtslvr.load(model))
    np.testing.assert_allclose(table.embeddings[row], alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_broken_files_are_reported_and_the_rest_is_written(broken, model, tmp_path):
    result = run(broken, "-o", tmp_path / "out.npz", "--model", model)
    assert result.exit_code == 1
    assert len(read_npz(tmp_path / "out.npz").paths) == 10
    for name in BAD:
        assert f"skipped {broken / name}" in result.output
    assert "5 of 15 inputs failed" in result.output
    assert "NaN or infinite samples: 1, the first at index 100" in result.output


@pytest.mark.parametrize(("features", "width"), [("invariant", 500), ("variant", 500), ("concat", 1000)])
def test_features(folder, model, tmp_path, features, width):
    assert run(folder / "a.wav", "-o", tmp_path / "x.npz", "--model", model, "--features", features).exit_code == 0
    found = read_npz(tmp_path / "x.npz").embeddings
    expected = mtslvr.embed(folder / "a.wav", features=features, encoder=mtslvr.load(model))
    assert found.shape == (1, width)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_windows_are_rows_without_pooling(folder, model, tmp_path):
    result = run(
        folder / "deep", "-o", tmp_path / "x.npz", "--model", model, "--pool", "none", "--window", 3, "--hop", 2
    )
    assert result.exit_code == 0, result.output
    table = read_npz(tmp_path / "x.npz")
    np.testing.assert_allclose(np.stack([table.start, table.end], 1), [[0, 3], [2, 5], [4, 7]])
    assert table.paths == ("er/a.wav",) * 3


def test_same_names_in_two_folders_stay_apart(folder, model, tmp_path):
    shutil.copytree(folder / "deep", tmp_path / "other")
    result = run(folder / "deep", tmp_path / "other", folder / "a.wav", "-o", tmp_path / "x.npz", "--model", model)
    assert result.exit_code == 0, result.output
    assert sorted(read_npz(tmp_path / "x.npz").paths) == ["a.wav", "deep/er/a.wav", "other/er/a.wav"]


def test_batch_size_and_threads_change_nothing(folder, model, tmp_path):
    tables = []
    for batch, threads in ((1, 1), (3, 4), (16, 2)):
        out = tmp_path / f"{batch}.npz"
        assert run(folder, "-o", out, "--model", model, "--batch-size", batch, "--threads", threads).exit_code == 0
        tables.append(read_npz(out))
    scale = np.abs(tables[0].embeddings).max()
    for table in tables[1:]:
        assert table.paths == tables[0].paths
        np.testing.assert_allclose(table.embeddings, tables[0].embeddings, rtol=0, atol=1e-5 * scale)


def test_a_missing_input_is_reported_and_the_rest_is_written(folder, model, tmp_path):
    result = run(folder / "a.wav", folder / "nowhere.wav", "-o", tmp_path / "x.npz", "--model", model)
    assert result.exit_code == 1
    assert "nowhere.wav" in result.output and "1 of 2 inputs failed" in result.output
    assert read_npz(tmp_path / "x.npz").paths == ("a.wav",)


def test_no_audio_found(tmp_path, model):
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty", "-o", tmp_path / "x.npz", "--model", model)
    assert result.exit_code == 4 and "no audio found" in result.output
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features", "both"], "'both' is not one of"),
        (["--window", "0"], "window_seconds=0"),
        (["--window", "nan"], "window_seconds=nan"),
        (["--window", "0.01"], "shorter than half an STFT frame"),
        (["--hop", "-1"], "hop_seconds=-1"),
        (["--batch-size", "0"], "batch_size=0"),
        (["--device", "abacus"], "device='abacus'"),
    ],
)
def test_wrong_settings_exit_with_2_and_name_the_value(folder, model, tmp_path, options, message):
    result = run(folder, "-o", tmp_path / "x.npz", "--model", model, *options)
    assert result.exit_code == 2 and message in result.output, result.output
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    ("output", "message"), [("missing/x.npz", "does not exist"), ("x.xlsx", "unknown format '.xlsx'")]
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(folder, model, tmp_path, output, message):
    result = run(folder, "-o", tmp_path / output, "--model", model)
    assert result.exit_code == 2 and message in result.output


def test_unavailable_weights_exit_with_3(folder, tmp_path):
    result = run(folder, "-o", tmp_path / "x.npz", "--model", "no such model")
    assert result.exit_code == 3 and "'no such model'" in result.output


def test_nothing_usable_writes_nothing(tmp_path, model):
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    result = run(tmp_path / "bad.wav", "-o", tmp_path / "x.npz", "--model", model)
    assert result.exit_code == 1 and not (tmp_path / "x.npz").exists()


def test_interrupting_keeps_what_is_finished(tmp_path, model):
    (tmp_path / "many").mkdir()
    for i in range(200):
        soundfile.write(tmp_path / "many" / f"{i:03}.wav", noise(1, 16000, seed=i), 16000)
    out = tmp_path / "x.npz"
    command = [sys.executable, "-c", "from mtslvr.cli.embed import main; main()"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "many"), "-o", str(out), "--model", str(model), "--batch-size", "1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = ""
    while not re.search(r" [1-9]\d*/200", seen) and process.poll() is None:
        seen += process.stderr.read(5)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "interrupted" in told, told
    table = read_npz(out)
    assert 0 < len(table.paths) < 200 and table.settings["complete"] is False


def test_progress_goes_to_stderr_and_quiet_is_quiet(folder, model, tmp_path):
    runner = CliRunner()
    loud = runner.invoke(embed_command, [str(folder), "-o", str(tmp_path / "x.npz"), "--model", str(model)])
    assert loud.stdout == "" and "10/10" in loud.stderr and "10 files" in loud.stderr
    quiet = runner.invoke(embed_command, [str(folder), "-o", str(tmp_path / "x.npz"), "--model", str(model), "-q"])
    assert quiet.stdout == "" and quiet.stderr == ""


def test_help_is_fast_enough_to_not_import_torch():
    code = (
        "import sys; sys.argv = ['mtslvr-embed', '--help']\n"
        "from mtslvr.cli.embed import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert e.code == 0\nassert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--features" in result.stdout


def test_settings_are_readable_json(folder, model, tmp_path):
    run(folder / "a.wav", "-o", tmp_path / "x.npz", "--model", model)
    with np.load(tmp_path / "x.npz") as file:
        settings = json.loads(str(file["settings"]))
    assert settings["encoder"]["adapter"] == "parallel"
