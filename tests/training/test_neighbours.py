"""Neighbours as positives: the table, what is drawn from it, and runs that use it."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional as F

from mtslvr.errors import ConfigError, TrainingError
from mtslvr.training import neighbours
from mtslvr.training.config import TrainConfig
from mtslvr.training.loop import train
from mtslvr.training.run import load_clips
from mtslvr.training.views import StepBatches, partners, step_generator

TINY = TrainConfig(
    steps=4, batch_size=4, crop_seconds=0.3, warmup_steps=0, dtype="float32", learning_rate=1e-5, crops=2
)
ALWAYS = dataclasses.replace(TINY, neighbour_probability=1.0, neighbours=1)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Four kinds of sound, each in two files that only differ in level, in folders a and b."""
    root = tmp_path_factory.mktemp("audio")
    t = np.arange(8000) / 16000
    kinds = [
        np.sin(2 * np.pi * 220 * t),
        np.random.default_rng(0).standard_normal(8000) / 3,
        np.sin(2 * np.pi * (500 + 5000 * t) * t),
        np.sign(np.sin(2 * np.pi * 7 * t)) * np.sin(2 * np.pi * 3000 * t),
    ]
    for folder, level in (("a", 0.5), ("b", 0.25)):
        (root / folder).mkdir()
        for name, kind in zip("wxyz", kinds, strict=True):
            soundfile.write(root / folder / f"{name}.wav", level * kind, 16000, subtype="FLOAT")
    return root


@pytest.fixture(scope="module")
def first(audio, tmp_path_factory):
    """A run to start others from."""
    folder = tmp_path_factory.mktemp("first") / "run"
    train(dataclasses.replace(TINY, steps=1), folder, [audio], workers=0, device="cpu")
    return folder


def losses(run):
    return [line.split(",")[:3] for line in (run / "losses.csv").read_text().splitlines()]


def test_mutual_neighbours_are_those_of_both_sides():
    angles = torch.tensor([0.0, 1.0, 3.0, 90.0, 91.0, 97.0, 180.0]).deg2rad()
    z = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert neighbours.mutual_neighbours(z, 1)[:, 0].tolist() == [1, 0, -1, 4, 3, -1, -1]
    table = neighbours.mutual_neighbours(z, 2)
    assert table.tolist() == [[1, 2], [0, 2], [1, 0], [4, 5], [3, 5], [4, 3], [-1, -1]]
    assert neighbours.mutual_neighbours(z[:3], 5).tolist() == [[1, 2, *[-1] * 3], [0, 2, *[-1] * 3], [1, 0, *[-1] * 3]]


def test_mutual_neighbours_are_the_same_in_any_blocks(monkeypatch):
    z = F.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    whole = neighbours.mutual_neighbours(z, 5)
    monkeypatch.setattr(neighbours, "_ROWS", 7)
    assert (neighbours.mutual_neighbours(z, 5) == whole).all()
    nearest = (z @ z.T - 9 * torch.eye(50)).topk(5, dim=1).indices.tolist()
    expected = [[j for j in row if i in nearest[j]] for i, row in enumerate(nearest)]
    assert [[j for j in row if j >= 0] for row in whole.tolist()] == expected


def test_partners_are_neighbours_with_the_probability_given():
    table = np.array([[1, 2, -1], [-1, -1, -1], [0, -1, -1]])
    clips = np.repeat(np.arange(3), 3000)
    drawn = partners(clips, table, 0.5, torch.Generator().manual_seed(0)).reshape(3, -1)
    assert np.bincount(drawn[0]) / 3000 == pytest.approx([0.5, 0.25, 0.25], abs=0.03)
    assert (drawn[1] == 1).all() and np.bincount(drawn[2]) / 3000 == pytest.approx([0.5, 0, 0.5], abs=0.03)
    assert (partners(clips, table, 0.0, torch.Generator().manual_seed(0)) == clips).all()


def test_a_run_draws_the_second_crop_from_the_same_kind_of_sound(audio, first, tmp_path):
    train(ALWAYS, tmp_path / "run", [audio], workers=0, device="cpu", init=first, stop_after=1)
    clips = load_clips(tmp_path / "run", (), ALWAYS)
    batches = StepBatches(clips, ALWAYS)
    table = neighbours.read_neighbours(tmp_path / "run", batches)
    kinds = [name.split("/")[1] for name in clips.names]
    assert [kinds[j] for j in table[:, 0]] == kinds and (table[:, 0] != np.arange(8)).all()
    batches.neighbours = table
    generator = step_generator(ALWAYS.seed, 1, 0)
    chosen = batches.clip_indices(0)
    partners(chosen, table, 1.0, generator)
    expected = torch.stack([batches.crops(c, generator) for c in (chosen, table[chosen, 0])])
    assert torch.equal(batches[0].views, batches.augmented(expected, generator).views)


def test_clips_held_out_are_no_neighbours(audio, first, tmp_path):
    config = dataclasses.replace(ALWAYS, batch_size=2, validation_fraction=0.25, validate_every=1)
    train(config, tmp_path / "run", [audio], workers=0, device="cpu", init=first, stop_after=1)
    batches = StepBatches(load_clips(tmp_path / "run", (), config), config)
    table = neighbours.read_neighbours(tmp_path / "run", batches)
    held_out = np.setdiff1d(np.arange(8), batches.members)
    assert len(held_out) == 2 and (table[held_out] == -1).all() and not np.isin(table, held_out).any()


def test_a_resumed_run_keeps_its_neighbours(audio, first, tmp_path):
    train(ALWAYS, tmp_path / "whole", [audio], workers=0, device="cpu", init=first)
    train(ALWAYS, tmp_path / "cut", [audio], workers=0, device="cpu", init=first, stop_after=2)
    train(ALWAYS, tmp_path / "cut", workers=1, device="cpu", resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    (tmp_path / "cut" / neighbours.TABLE).unlink()
    with pytest.raises(TrainingError, match=r"neighbours\.npy: no neighbours of the run's clips"):
        train(ALWAYS, tmp_path / "cut", workers=0, device="cpu", resume=True)


def test_a_run_that_died_before_its_first_state_resumes_from_where_it_started(audio, first, tmp_path):
    class Killed(Exception):
        pass

    def kill(report):
        raise Killed

    with pytest.raises(Killed):
        train(ALWAYS, tmp_path / "cut", [audio], workers=0, device="cpu", init=first, on_step=kill)
    assert not (tmp_path / "cut" / "state.pt").exists()
    train(ALWAYS, tmp_path / "cut", workers=0, device="cpu", resume=True)
    train(ALWAYS, tmp_path / "whole", [audio], workers=0, device="cpu", init=first)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_wrong_settings_have_clear_errors(audio, tmp_path):
    with pytest.raises(ConfigError, match=r"neighbour_probability=0\.5: is of second crops, and crops=1"):
        TrainConfig(neighbour_probability=0.5)
    with pytest.raises(ConfigError, match=r"neighbour_probability=0.5 with variant_weight=1.0"):
        TrainConfig(neighbour_probability=0.5, crops=2, variant_weight=1.0)
    with pytest.raises(ConfigError, match="neighbours=0"):
        TrainConfig(neighbours=0)
    with pytest.raises(TrainingError, match=r"neighbour_probability=1\.0: needs embeddings .* --init"):
        train(ALWAYS, tmp_path / "run", [audio], workers=0, device="cpu")
    assert not (tmp_path / "run").exists()
    assert TrainConfig.from_dict(json.loads(json.dumps(ALWAYS.to_dict()))) == ALWAYS
