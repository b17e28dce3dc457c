"""Nothing that is downloaded runs, and a config of any format is read or refused by name."""

import ast
import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

import mtslvr
from mtslvr import checkpoint, config, registry
from mtslvr.config import EncoderConfig, FrontendConfig
from mtslvr.errors import CheckpointError, ConfigError

PACKAGE = Path(mtslvr.__file__).parent
PINNED = Path(__file__).parent / "released"


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "tiny"))


def test_the_package_has_no_call_that_runs_data():
    """eval, exec, pickle.load and the like, torch.load without weights_only, subprocesses made from text."""
    bad = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in ("eval", "exec", "compile", "__import__", "os.system", "pickle.load", "pickle.loads") or (
                called == "torch.load" and keywords.get("weights_only") != "True"
            ):
                bad.append(f"{path.name}: {called}")
            if called in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
                bad.append(f"{path.name}: {called}")
            if {"trust_remote_code", "shell"} & set(keywords):
                bad.append(f"{path.name}: {called}")
    assert bad == []


@pytest.mark.parametrize(
    ("values", "front"),
    [
        ({"window_seconds": 600}, {"hop_length": 1}),
        ({"window_seconds": 600}, {"sample_rate": 384000}),
        ({}, {"hop_length": 1, "n_fft": 16384}),
        ({"window_seconds": 60}, {"hop_length": 16, "n_mels": 1024}),
    ],
)
def test_settings_that_are_too_much_together(values, front):
    with pytest.raises(
        ConfigError, match=r"config: window_seconds, frontend.*=.*: must be so small that a window takes"
    ):
        EncoderConfig(frontend=FrontendConfig(**front), **values)


@pytest.mark.parametrize(
    ("values", "front"),
    [
        ({"window_seconds": 600}, {}),
        ({"window_seconds": 60}, {"sample_rate": 48000, "n_fft": 2048, "hop_length": 480, "f_max": 24000}),
        ({"window_seconds": 10}, {"sample_rate": 250000, "n_fft": 1024, "hop_length": 256, "f_max": 125000}),
    ],
)
def test_settings_that_are_of_use_are_not_too_much(values, front):
    EncoderConfig(frontend=FrontendConfig(**front), **values)


def test_a_weights_file_larger_than_any_is_not_read(folder):
    os.truncate(folder / "model.safetensors", 1 << 40)  # sparse
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: 1099511627776 bytes; weights have at most 536870912"
    ):
        checkpoint.load(folder)


def test_a_key_given_twice_is_named(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"tasks"', '"heads": 1, "tasks"'))
    with pytest.raises(CheckpointError, match=r"config\.json: config: key 'heads' given twice; keep one"):
        checkpoint.load(folder)


# The format of config.json


def write_format(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_newer_format_says_to_upgrade(folder):
    write_format(folder, format_version=2)
    with pytest.raises(
        CheckpointError, match=r"format_version=2: .*a newer mtslvr wrote this: upgrade with `pip install"
    ):
        checkpoint.load(folder)


@pytest.mark.parametrize("version", [0, -1])
def test_a_format_that_is_not_read_says_how_to_convert(folder, version):
    write_format(folder, format_version=version)
    with pytest.raises(
        CheckpointError, match=rf"format_version={version}: this mtslvr reads 1; convert .*`mtslvr convert`"
    ):
        checkpoint.load(folder)


def test_an_older_format_loads_by_its_upgrade(folder, expected, monkeypatch):
    """As it will be with format 2 or 3: one function a step, applied in order."""
    before = checkpoint.load(folder).config
    write_format(folder, width=before.head_dim, format_version=-1)
    values = json.loads((folder / "config.json").read_text())
    del values["head_dim"]
    (folder / "config.json").write_text(json.dumps(values))
    rename = {-1: lambda v: {("dim" if k == "width" else k): x for k, x in v.items()}}
    rename[0] = lambda v: {("head_dim" if k == "dim" else k): x for k, x in v.items()}
    monkeypatch.setattr(checkpoint, "UPGRADES", rename)
    assert checkpoint.load(folder).config == before
    write_format(folder, format_version=-2)
    with pytest.raises(CheckpointError, match=r"format_version=-2: this mtslvr reads -1 to 1; convert"):
        checkpoint.load(folder)


def test_every_older_format_has_its_upgrade():
    assert sorted(checkpoint.UPGRADES) == list(range(1, config.FORMAT_VERSION))


# Saving


def test_save_writes_what_load_takes(tmp_path, made):
    encoder = mtslvr.load(made, device="cpu", fold=False)
    folder = encoder.save(tmp_path / "saved", dtype=torch.float32, card="# A card\n")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = mtslvr.load(folder, device="cpu", fold=False)
    assert all(
        torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), again.state_dict().values(), strict=True)
    )
    again.save(folder)  # without a card: the one that is there stays
    assert (folder / "README.md").read_text() == "# A card\n"


def test_a_folded_encoder_says_how_to_get_one_to_save(made, tmp_path):
    with pytest.raises(CheckpointError, match=r"a folded encoder cannot be saved; save the one it was folded from"):
        mtslvr.load(made, device="cpu").save(tmp_path / "saved")


@pytest.mark.skipif(os.name == "nt", reason="no such modes")
def test_all_files_may_be_read_by_the_same_people(made):
    modes = {stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()}
    assert len(modes) == 1


# What a released checkpoint embeds is part of the promise


def probe():
    """A second of noise and a second of a rising tone, five seconds in all."""
    t = np.arange(80_000) / 16_000
    noise = np.random.default_rng(0).standard_normal(80_000)
    return (np.sin(2 * np.pi * (200 + 300 * t) * t) * (t % 2 < 1) + 0.1 * noise).astype(np.float32)


@pytest.mark.parametrize("name", sorted(registry.bundled()))
def test_embeddings_of_a_released_checkpoint_stay(name):
    """`python tests/hub/pin.py` writes the pins of a new checkpoint; of a released one they never change."""
    path = PINNED / f"{name}.npy"
    assert path.is_file(), f"{path} is missing: pin the new checkpoint with `python tests/hub/pin.py`"
    found = mtslvr.embed(probe(), 16_000, encoder=mtslvr.load(name, device="cpu"))
    expected = np.load(path, allow_pickle=False)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
