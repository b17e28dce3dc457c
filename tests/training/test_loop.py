"""The training loop: it learns, it resumes exactly, it stops with clear errors."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

import mtslvr
from mtslvr.config import AdapterKind
from mtslvr.errors import TrainingError
from mtslvr.training import loop
from mtslvr.training.config import TrainConfig, encoder_config
from mtslvr.training.loop import learning_rate, train

TINY = TrainConfig(steps=4, batch_size=4, crop_seconds=0.3, warmup_steps=1, dtype="float32", learning_rate=1e-4)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    root = tmp_path_factory.mktemp("audio")
    generator = np.random.default_rng(0)
    for i in range(6):
        tone = np.sin(2 * np.pi * 200 * (i + 1) * np.arange(8000) / 16000)
        soundfile.write(root / f"{i}.wav", 0.2 * tone + 0.05 * generator.standard_normal(8000), 16000)
    return root


def losses(run):
    with open(run / "losses.csv", newline="") as file:
        return [(int(row["step"]), row["joint"], row["contrastive"]) for row in csv.DictReader(file)]


def test_a_run_leaves_config_losses_state_and_a_loadable_checkpoint(audio, tmp_path):
    folder = train(TINY, tmp_path / "run", [audio], workers=0, device="cpu")
    assert [step for step, *_ in losses(tmp_path / "run")] == [0, 1, 2, 3]
    assert TrainConfig.from_dict(json.loads((tmp_path / "run" / "config.json").read_text())) == TINY
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and environment["git_revision"]
    embedding = mtslvr.embed(np.ones(4000, np.float32), 16000, encoder=mtslvr.load(folder))
    assert embedding.shape == (1000,) and np.isfinite(embedding).all()


def test_resume_repeats_the_losses_of_an_uninterrupted_run(audio, tmp_path):
    train(TINY, tmp_path / "whole", [audio], workers=0, device="cpu", save_every=2)

    class Killed(Exception):
        pass

    def kill(report):
        if report.step == 2:  # after the state of step 2 was saved, with one more line in losses.csv
            raise Killed

    with pytest.raises(Killed):
        train(TINY, tmp_path / "cut", [audio], workers=0, device="cpu", save_every=2, on_step=kill)
    train(TINY, tmp_path / "cut", workers=1, device="cpu", save_every=2, resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    whole, cut = (mtslvr.load(tmp_path / run / "checkpoint", fold=False).state_dict() for run in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_a_killed_process_resumes(audio, tmp_path):
    run = tmp_path / "run"
    config = tmp_path / "config.json"
    config.write_text(json.dumps(dataclasses.replace(TINY, steps=300).to_dict()))
    command = [sys.executable, "-m", "mtslvr.cli.main", "train", "--out", str(run), "--device", "cpu"]
    options = ["--data", str(audio), "--config", str(config), "--save-every", "1", "--workers", "0"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    while process.poll() is None and (not (run / "losses.csv").exists() or len(losses(run)) < 3):
        time.sleep(0.05)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = losses(run)
    state = torch.load(run / "state.pt", weights_only=True)["step"]
    resumed = dataclasses.replace(TINY, steps=300)

    class Enough(Exception):
        pass

    def stop(report):
        if report.step == state + 1:
            raise Enough

    with pytest.raises(Enough):
        train(resumed, run, workers=0, device="cpu", save_every=1, resume=True, on_step=stop)
    after = losses(run)
    assert [step for step, *_ in after] == list(range(state + 2))
    assert after[: min(len(before), state)] == before[:state]


@pytest.mark.parametrize("adapter", list(AdapterKind))
@pytest.mark.parametrize("contrastive", ["simclr", "simsiam"])
def test_every_adapter_takes_a_step_with_every_contrastive_loss(audio, tmp_path, adapter, contrastive):
    config = dataclasses.replace(TINY, steps=1, encoder=encoder_config(adapter), contrastive=contrastive)
    folder = train(config, tmp_path / "run", [audio], workers=0, device="cpu")
    assert mtslvr.load(folder).config == encoder_config(adapter)


def test_the_loss_falls_on_one_repeated_batch(audio, tmp_path, monkeypatch):
    from mtslvr.training.views import StepBatches

    original = StepBatches.__getitem__
    monkeypatch.setattr(StepBatches, "__getitem__", lambda self, step: original(self, 0))
    config = dataclasses.replace(TINY, steps=8, warmup_steps=0, learning_rate=1e-3)
    train(config, tmp_path / "run", [audio], workers=0, device="cpu")
    joint = [float(value) for _, value, _ in losses(tmp_path / "run")]
    assert joint[-1] < 0.8 * joint[0]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_state(audio, tmp_path, monkeypatch):
    real = loop.optimise
    calls = []

    def broken(objective, optimizer, batch, rate, config):
        calls.append(0)
        if len(calls) == 3:
            batch = dataclasses.replace(batch, views=batch.views * float("nan"))
        return real(objective, optimizer, batch, rate, config)

    monkeypatch.setattr(loop, "optimise", broken)
    with pytest.raises(TrainingError, match=r"step 2: joint loss nan .* last good state is .*state\.pt"):
        train(TINY, tmp_path / "run", [audio], workers=0, device="cpu", save_every=1)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 2
    assert all(torch.isfinite(v).all() for v in state["objective"].values())


def test_a_run_can_stop_early_and_another_start_from_its_weights(audio, tmp_path):
    train(TINY, tmp_path / "first", [audio], workers=0, device="cpu", stop_after=2)
    assert len(losses(tmp_path / "first")) == 2
    state = torch.load(tmp_path / "first" / "state.pt", weights_only=True)
    assert state["step"] == 2
    still = dataclasses.replace(TINY, learning_rate=0.0, weight_decay=0.0, steps=1)
    train(still, tmp_path / "second", [audio], workers=0, device="cpu", init=tmp_path / "first")
    second = torch.load(tmp_path / "second" / "state.pt", weights_only=True)
    weights = [key for key in state["objective"] if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(state["objective"][key], second["objective"][key]) for key in weights)
    environment = json.loads((tmp_path / "second" / "environment.json").read_text())
    assert environment["init_steps"] == 2
    with pytest.raises(TrainingError, match="no state to start from"):
        train(TINY, tmp_path / "third", [audio], workers=0, device="cpu", init=tmp_path / "nowhere")
    other = dataclasses.replace(TINY, encoder=encoder_config(AdapterKind.BN))
    with pytest.raises(TrainingError, match="not the state of this network"):
        train(other, tmp_path / "fourth", [audio], workers=0, device="cpu", init=tmp_path / "first")


def test_schedule_warms_up_and_ends_at_zero():
    config = dataclasses.replace(TINY, steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[55] == pytest.approx(0.5)
    assert rates[-1] < 1e-3


def test_wrong_starts_have_clear_errors_and_overwrite_nothing(audio, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match="no packed clips and no --data"):
        train(TINY, run, device="cpu")
    with pytest.raises(TrainingError, match="holds a run already; go on with --resume"):
        train(TINY, run, [audio], device="cpu")
    other = dataclasses.replace(TINY, temperature=0.3)
    with pytest.raises(TrainingError, match=r"temperature was .*, now 0\.3"):
        train(other, run, [audio], resume=True, device="cpu")
    with pytest.raises(TrainingError, match="no run to resume"):
        train(TINY, tmp_path / "none", [audio], resume=True, device="cpu")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(TrainingError, match="cannot write the run directory"):
        train(TINY, blocked / "run", [audio], device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_cuda_asked_for_and_absent(tmp_path):
    with pytest.raises(TrainingError, match="sees no CUDA device; use --device cpu"):
        train(TINY, tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()
