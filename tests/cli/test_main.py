"""The `mtslvr` group: its commands, and training and few-shot from the command line."""

import json

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import mtslvr
from mtslvr import checkpoint
from mtslvr.cli.main import main


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    return checkpoint.save(mtslvr.Encoder(mtslvr.EncoderConfig()), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Three classes of tones that any features tell apart, four clips each."""
    root = tmp_path_factory.mktemp("labelled")
    generator = np.random.default_rng(0)
    for name, hertz in (("low", 150), ("middle", 900), ("high", 5000)):
        (root / name).mkdir()
        for take in range(4):
            tone = np.sin(2 * np.pi * hertz * np.arange(8000) / 16000 + take)
            soundfile.write(root / name / f"{name}_{take}.wav", tone + 0.01 * generator.standard_normal(8000), 16000)
    return root


def test_help_lists_every_command():
    result = run("--help")
    assert result.exit_code == 0
    for name in ("embed", "fewshot", "convert", "train"):
        assert f"  {name} " in result.output
        assert run(name, "--help").exit_code == 0


def test_an_unknown_command_is_a_usage_error():
    result = run("embedd")
    assert result.exit_code == 2 and "No such command 'embedd'" in result.output


def test_fewshot_prints_features_beside_the_baseline(labelled, model):
    result = run("fewshot", labelled, "--model", model, "--n-way", 3, "--episodes", 50)
    assert result.exit_code == 0, result.output
    header, columns, *rows = result.output.splitlines()
    assert "3-way 1-shot, 50 episodes, seed 42" in header
    assert columns.split() == ["features", "sgd", "logistic"]
    assert [row.split()[0] for row in rows] == ["invariant", "variant", "concat", "log-mel"]
    baseline = float(rows[-1].split()[-3])
    assert baseline > 90  # three tones: a log-mel spectrum tells them apart


def test_fewshot_takes_labels_from_file_names(labelled, model):
    by_folder = run("fewshot", labelled, "--model", model, "--n-way", 3, "--episodes", 20, "--classifier", "centroid")
    by_name = run(
        "fewshot", labelled, "--model", model, "--n-way", 3, "--episodes", 20, "--classifier", "centroid",
        "--label-field", 0,
    )  # fmt: skip
    assert by_name.exit_code == 0, by_name.output
    assert len(by_name.output.splitlines()) == len(by_folder.output.splitlines())


def test_fewshot_needs_enough_classes(labelled, model):
    result = run("fewshot", labelled, "--model", model)
    assert result.exit_code == 2 and "5-way episodes from 3 classes" in result.output


def test_train_from_the_command_line(labelled, tmp_path):
    options = ["--steps", 2, "--batch-size", 4, "--crop-seconds", 0.3, "--dtype", "float32", "--workers", 0]
    result = run("train", "--data", labelled, "--out", tmp_path / "run", *options, "--system", "mt-bn")
    assert result.exit_code == 0, result.output
    encoder = mtslvr.load(tmp_path / "run" / "checkpoint")
    assert encoder.config.adapter is mtslvr.AdapterKind.BN
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["steps"], saved["batch_size"], saved["encoder"]["adapter"]) == (2, 4, "bn")
    again = run("train", "--data", labelled, "--out", tmp_path / "run", *options)
    assert again.exit_code == 2 and "holds a run already" in again.output
    resumed = run("train", "--out", tmp_path / "run", "--resume", "--workers", 0)
    assert resumed.exit_code == 0, resumed.output


def test_train_refuses_an_unknown_key_in_its_config(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"stepz": 3}))
    result = run("train", "--out", tmp_path / "run", "--config", tmp_path / "c.json")
    assert result.exit_code == 2 and "unknown key 'stepz'" in result.output


def test_pack_then_train_a_system_in_the_published_recipe(labelled, tmp_path):
    (labelled / "broken.wav").write_bytes(b"no audio")
    packed = run("pack", labelled, "-o", tmp_path / "packed", "--max-seconds", 0.5)
    (labelled / "broken.wav").unlink()
    assert packed.exit_code == 0, packed.output
    assert "broken.wav" in packed.output and "1 files left out" in packed.output
    assert "standard deviation 0." in packed.output
    options = ["--steps", 1, "--batch-size", 2, "--crop-seconds", 0.3, "--workers", 0, "--stop-after", 1]
    result = run(
        "train", "--data", tmp_path / "packed", "--out", tmp_path / "run", *options,
        "--system", "mt-split", "--contrastive", "simsiam", "--recipe", "published",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["optimizer"], saved["contrastive"], saved["encoder"]["adapter"]) == ("adam", "simsiam", "split")


def test_pack_refuses_clips_too_short_to_hear(labelled, tmp_path):
    result = run("pack", labelled, "-o", tmp_path / "packed", "--max-seconds", 0.1)
    assert result.exit_code == 2 and "--max-seconds 0.1: must be at least 0.5" in result.output


def test_train_takes_a_config_or_a_recipe(tmp_path):
    (tmp_path / "c.json").write_text("{}")
    result = run("train", "--out", tmp_path / "run", "--config", tmp_path / "c.json", "--system", "mt-bn")
    assert result.exit_code == 2 and "--system with" in result.output and "change it there" in result.output
    assert not (tmp_path / "run").exists()


def test_the_systems_on_the_command_line_are_all_there_are():
    from mtslvr.cli.train import SYSTEMS
    from mtslvr.training.recipes import System

    assert tuple(system.value for system in System) == SYSTEMS
