"""The training loop: it learns, it resumes exactly, it stops with clear errors."""

import csv
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import click
import narrow
import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.main import main
from mtslvr.cli.train import read_config
from mtslvr.config import AdapterKind
from mtslvr.errors import CheckpointError, ConfigError, MTSLVRError, TrainingError
from mtslvr.training.config import HeadsConfig, TrainConfig, encoder_config
from mtslvr.training.data import PackedClips, pack
from mtslvr.training.loop import train
from mtslvr.training.recipes import System, own, published
from mtslvr.training.trainer import Trainer, half, learning_rate
from mtslvr.training.views import StepBatches

TINY = TrainConfig(
    encoder=dataclasses.replace(encoder_config(AdapterKind.PARALLEL), head_dim=8),
    steps=4, batch_size=4, crop_seconds=0.2, warmup_steps=1, dtype="float32", learning_rate=1e-4, predicted_views=2,
    ema_decay=0.0, heads=None,
)  # fmt: skip
HELD_OUT = dataclasses.replace(TINY, steps=6, batch_size=2, validation_fraction=0.34, validate_every=2)
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("narrow_networks")


@pytest.fixture(scope="module")
def packed(clips_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "clips"
    pack([clips_folder], folder, 16000)
    return folder


def losses(run, name="losses.csv"):
    with open(run / name, newline="") as file:
        return [(int(row["step"]), float(row["joint"]), float(row["contrastive"])) for row in csv.DictReader(file)]


def weights(folder):
    return mtslvr.load(folder, fold=False).state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_leaves_config_losses_state_and_a_loadable_checkpoint(clips_folder, tmp_path):
    folder = train(TINY, tmp_path / "run", [clips_folder], workers=0, device="cpu")
    assert [step for step, *_ in losses(tmp_path / "run")] == [0, 1, 2, 3]
    assert TrainConfig.from_dict(json.loads((tmp_path / "run" / "config.json").read_text())) == TINY
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and environment["git_revision"]
    assert environment["dtype"] == "float32"
    embedding = mtslvr.embed(np.ones(4000, np.float32), 16000, encoder=mtslvr.load(folder))
    assert embedding.shape == (16,) and np.isfinite(embedding).all()


def test_resume_repeats_the_losses_of_an_uninterrupted_run_and_its_running_mean(packed, tmp_path):
    config = dataclasses.replace(TINY, ema_decay=0.5)
    train(config, tmp_path / "whole", [packed], workers=0, device="cpu", save_every=2)

    class Killed(Exception):
        pass

    def kill(report):
        if report["step"] == 2:  # after the state of step 2 was saved, with one more line in losses.csv
            raise Killed

    with pytest.raises(Killed):
        train(config, tmp_path / "cut", [packed], workers=0, device="cpu", save_every=2, on_step=kill)
    path = tmp_path / "cut" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sync_batch_norm": True}))  # as 0.2 wrote it
    (tmp_path / "cut" / "state.pt").rename(tmp_path / "cut" / "state-previous.pt")  # as 0.2 may leave it
    train(config, tmp_path / "cut", workers=1, device="cpu", save_every=2, resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    whole, cut = (weights(tmp_path / run / "checkpoint") for run in ("whole", "cut"))
    assert same(whole, cut)
    state = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)
    name = "trunk.stem.conv.weight"
    assert torch.equal(whole[name], state["average"][f"module.{name}"].half().float())
    assert not torch.equal(whole[name], state["objective"][f"encoder.{name}"].half().float())


@pytest.mark.slow
def test_a_killed_process_resumes(packed, tmp_path):
    run, config = tmp_path / "run", dataclasses.replace(TINY, steps=300)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    command = [sys.executable, narrow.__file__, "train", "--out", run, "--device", "cpu", "--data", packed]
    command += ["--config", tmp_path / "config.json", "--save-every", "1", "--workers", "0"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and (not (run / "losses.csv").exists() or len(losses(run)) < 3):
        time.sleep(0.02)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before, state = losses(run), torch.load(run / "state.pt", weights_only=True)["step"]
    train(config, run, workers=0, device="cpu", resume=True, stop_after=state + 2)
    after = losses(run)
    assert [step for step, *_ in after] == list(range(state + 2))
    assert after[: min(len(before), state)] == before[:state]


def test_the_loss_falls_on_one_repeated_batch(packed):
    config = dataclasses.replace(TINY, contrastive="simsiam", learning_rate=1e-3, warmup_steps=0, steps=100)
    trainer, batch = Trainer(config, CPU), StepBatches(PackedClips.open(packed), config)[0]
    joint = [trainer.optimise(batch)[0]["joint"] for _ in range(6)]
    assert joint[-1] < joint[0] - 0.1


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_state(packed, tmp_path):
    run = tmp_path / "run"
    train(TINY, run, [packed], workers=0, device="cpu", stop_after=2)
    state = torch.load(run / "state.pt", weights_only=True)
    broken = {**state["objective"], "projector.2.bias": torch.full((256,), torch.nan)}
    torch.save({**state, "objective": broken}, run / "state.pt")
    with pytest.raises(TrainingError, match=r"step 2: joint loss nan, .* last good state is .*state\.pt"):
        train(TINY, run, workers=0, device="cpu", resume=True, save_every=1)
    kept = torch.load(run / "state.pt", weights_only=True)
    assert kept["step"] == 2 and torch.isfinite(kept["objective"]["projector.0.weight"]).all()


def test_a_run_can_stop_early_and_another_start_from_its_weights(packed, tmp_path, capsys):
    wide = dataclasses.replace(TINY, encoder=dataclasses.replace(TINY.encoder, spectral_statistics=True))
    first = train(wide, tmp_path / "first", [packed], workers=0, device="cpu", stop_after=1)
    assert len(losses(tmp_path / "first")) == 1
    still, start = dataclasses.replace(TINY, learning_rate=0.0, steps=1), weights(first)
    for name, source in (("run", tmp_path / "first"), ("checkpoint", first)):
        second = train(still, tmp_path / name, [packed], workers=0, device="cpu", init=source)
        assert "heads read other features; new ones start at random (heads.1.weight)" in capsys.readouterr().err
        found = mtslvr.load(second, fold=False)
        assert found.config == TINY.encoder
        others = [key for key, _ in found.named_parameters() if key != "heads.1.weight"]
        assert all(torch.equal(found.get_parameter(key), start[key]) for key in others)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["init"] == str(tmp_path / "first")
    with pytest.raises(CheckpointError, match="nowhere"):
        train(TINY, tmp_path / "third", [packed], workers=0, device="cpu", init=tmp_path / "nowhere")
    other = dataclasses.replace(TINY, encoder=encoder_config(AdapterKind.BN))
    with pytest.raises(TrainingError, match="weights of another network"):
        train(other, tmp_path / "fourth", [packed], workers=0, device="cpu", init=first)


# A run that is under way can be gone on with by a later version: same weights, batches and losses.
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [2.70245, 2.66053]),
        ({"predicted_views": 2}, [2.72658, 2.68288]),
    ],
)
def test_the_losses_of_the_recipe_stay_what_they_are(packed, changes, expected):
    recipe = {"batch_size": 4, "steps": 2, "crop_seconds": 0.25, "dtype": "float32", "heads": None}
    config = TrainConfig(**recipe, **changes)
    trainer, batches = Trainer(config, CPU), StepBatches(PackedClips.open(packed), config)
    assert [trainer.optimise(batches[step])[0]["joint"] for step in range(2)] == pytest.approx(expected, rel=1e-3)


def test_schedule_warms_up_and_ends_at_zero():
    config = dataclasses.replace(TINY, steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[55] == pytest.approx(0.5)
    assert rates[-1] < 1e-3


def test_wrong_starts_have_clear_errors_and_take_nothing(clips_folder, packed, tmp_path):
    run, silent, file = tmp_path / "run", tmp_path / "silent", tmp_path / "file"
    silent.mkdir()
    file.write_text("")

    def refused(said, changes=None, folder=run, data=(clips_folder,), **how):
        with pytest.raises(MTSLVRError, match=said):
            train(dataclasses.replace(TINY, **changes or {}), folder, data, **{"device": "cpu", **how})

    refused("no --data for a new run", data=())
    if not torch.cuda.is_available():
        refused("sees no CUDA device; use --device cpu", device="cuda")
    assert not run.exists()
    refused("silent", data=[silent])
    refused("5 clips are fewer than a batch of 9", {"batch_size": 9}, data=[packed])
    few = {"batch_size": 2, "validation_fraction": 0.2, "validate_every": 1}
    refused("1 validation clips are fewer than a batch of 2", few, data=[packed])
    heads = HeadsConfig(clips=600, crop_seconds=1.5)
    refused(r"at most 1\.50 s.*lower heads\.crop_seconds", {"heads": heads}, data=[packed])
    train(TINY, run, [clips_folder], workers=0, device="cpu", stop_after=1)
    refused("holds a run already; go on with --resume")
    refused(r"temperature was .*, now 0\.3", {"temperature": 0.3}, resume=True)
    refused("no training run", folder=tmp_path / "none", resume=True)
    refused("cannot write the packed clips", folder=file / "run")
    assert len(losses(run)) == 1


@pytest.fixture(scope="module")
def two_steps(narrow_networks, clips_folder, tmp_path_factory):
    """A run of two steps, with a state saved after each."""
    run = tmp_path_factory.mktemp("two") / "run"
    train(TINY, run, [clips_folder], workers=0, device="cpu", stop_after=2, save_every=1)
    return run


def test_a_state_that_cannot_be_gone_on_with_is_named_and_nothing_changes(two_steps, tmp_path):
    run = shutil.copytree(two_steps, tmp_path / "run")
    path = run / "state.pt"
    whole, state = path.read_bytes(), torch.load(path, weights_only=True)
    for content, said in (
        (whole[:1000], r"not the state of a run \(.+\); .* delete it to begin again"),
        ({"weights": torch.zeros(3)}, "not the state of a run"),
        ({**state, "objective": {"encoder.weight": torch.zeros(1)}}, "not the state of this run"),
    ):
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        before = {file: file.read_bytes() for file in run.glob("*.*")}
        with pytest.raises(TrainingError, match=rf"state\.pt: {said}"):
            train(TINY, run, workers=0, device="cpu", resume=True)
        assert {file: file.read_bytes() for file in run.glob("*.*")} == before


def test_a_torn_environment_and_torn_losses_do_not_stop_a_run(clips_folder, two_steps, tmp_path):
    run = shutil.copytree(two_steps, tmp_path / "run")
    (run / "environment.json").write_text('{"mtslvr": "0.')
    with pytest.raises(TrainingError, match=r"environment\.json: not readable .* delete it and resume with the run's"):
        train(TINY, run, workers=0, device="cpu", resume=True)
    (run / "environment.json").unlink()
    with open(run / "losses.csv", "ab") as file:
        file.write(b"2,\xff\xfe\0,,\n,,,\nx")
    train(TINY, run, [clips_folder], workers=0, device="cpu", resume=True, stop_after=3)
    assert losses(run)[:2] == losses(two_steps) and len(losses(run)) == 3


def test_a_disk_that_fills_up_leaves_the_last_state(two_steps, tmp_path):
    run = shutil.copytree(two_steps, tmp_path / "run")
    before = (run / "state.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"state\.pt.*: cannot write .* free space and go on with --resume"):
            train(TINY, run, workers=0, device="cpu", resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (run / "state.pt").read_bytes() == before and not list(run.glob("*.part"))
    train(TINY, run, workers=0, device="cpu", resume=True)
    assert [step for step, *_ in losses(run)] == [0, 1, 2, 3]


def test_a_run_goes_on_with_its_own_data_only(two_steps, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for i in range(4):
        soundfile.write(other / f"{i}.wav", np.random.default_rng(i).standard_normal(8000) / 9, 16000)
    run = shutil.copytree(two_steps, tmp_path / "run")
    with pytest.raises(
        TrainingError, match=r"--resume with other --data .*other; the run has .*audio.*leave --data out"
    ):
        train(TINY, run, [other], workers=0, device="cpu", resume=True)
    pack([other], tmp_path / "packed", 16000)
    with pytest.raises(TrainingError, match=r"packed: other clips than those that .*run began with"):
        train(TINY, run, [tmp_path / "packed"], workers=0, device="cpu", resume=True)
    moved = shutil.move(run / "clips", tmp_path / "moved")
    with pytest.raises(TrainingError, match="no packed clips"):
        train(TINY, run, workers=0, device="cpu", resume=True)
    train(TINY, run, [moved], workers=0, device="cpu", resume=True, stop_after=3)
    train(TINY, run, workers=0, device="cpu", resume=True)
    assert len(losses(run)) == 4


def test_packed_clips_stay_where_they_are_and_join_folders_of_audio(clips_folder, packed, tmp_path):
    train(TINY, tmp_path / "one", [packed], workers=0, device="cpu", stop_after=1)
    assert not (tmp_path / "one" / "clips").exists()
    train(TINY, tmp_path / "two", [packed, clips_folder], workers=0, device="cpu", stop_after=1)
    assert len(PackedClips.open(tmp_path / "two" / "clips")) == 10
    pack([clips_folder], tmp_path / "slow", 8000)
    with pytest.raises(TrainingError, match="packed at 8000 Hz, the encoder takes 16000"):
        train(TINY, tmp_path / "three", [tmp_path / "slow"], workers=0, device="cpu")


def test_auto_is_bfloat16_where_inference_takes_it(tmp_path):
    folder = mtslvr.Encoder(mtslvr.EncoderConfig()).save(tmp_path)
    try:
        there = mtslvr.load(folder, device="cpu", dtype="bfloat16").dtype is torch.bfloat16
    except ConfigError:
        there = False
    assert TrainConfig().dtype == "auto" and half(TrainConfig(), CPU) is there
    assert half(TrainConfig(dtype="bfloat16"), CPU) and not half(TrainConfig(dtype="float32"), CPU)


def test_weights_that_no_input_reaches_have_no_gradient(packed):
    config = dataclasses.replace(TINY, dtype="bfloat16", crop_seconds=0.25)  # the last stage reads one column
    trainer = Trainer(config, CPU)
    trainer.optimise(StepBatches(PackedClips.open(packed), config)[0])
    assert not trainer.objective.encoder.branches.layer4[0].conv1.conv.weight.grad[..., 0].any()


def test_validation_is_logged_and_the_best_checkpoint_kept(packed, tmp_path):
    worse = dataclasses.replace(HELD_OUT, learning_rate=1.0, warmup_steps=0)  # steps so large undo what there was
    trainer, held_out = Trainer(worse, CPU), StepBatches(PackedClips.open(packed), worse, validation=True)
    before = {key: value.clone() for key, value in trainer.objective.state_dict().items()}
    assert trainer.validate(held_out) == trainer.validate(held_out)
    assert same(trainer.objective.state_dict(), before)
    folder = train(worse, tmp_path / "run", [packed], workers=0, device="cpu")
    found = losses(tmp_path / "run", "validation.csv")
    assert [step for step, *_ in found] == [2, 4, 6] and np.isfinite([joint for _, joint, _ in found]).all()
    best = min(found, key=lambda row: row[1])[0]
    until_then = train(worse, tmp_path / "two", [packed], workers=0, device="cpu", stop_after=best)
    assert same(weights(folder), weights(until_then))


def test_a_run_stops_when_its_patience_ends_and_resumes_with_what_it_waited(packed, tmp_path):
    config, run = dataclasses.replace(HELD_OUT, validate_every=1, patience=3), tmp_path / "run"
    train(config, run, [packed], workers=0, device="cpu", stop_after=2)
    state = torch.load(run / "state.pt", weights_only=True)
    torch.save({**state, "best": -1.0, "waited": 1}, run / "state.pt")  # no loss is as low
    train(config, run, workers=0, device="cpu", resume=True)
    assert len(losses(run)) == len(losses(run, "validation.csv")) == 4 < config.steps
    assert torch.load(run / "state.pt", weights_only=True)["waited"] == 3


@pytest.mark.extra("train")
def test_tensorboard_gets_what_the_csv_gets(two_steps):
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(two_steps / "tensorboard"))
    events.Reload()
    found = [(event.step, pytest.approx(event.value)) for event in events.Scalars("losses/joint")]
    assert found == [row[:2] for row in losses(two_steps)]


@pytest.mark.slow
def test_minutes_set_the_schedule_by_the_clock(clips_folder, packed, tmp_path):
    config = tmp_path / "changes.json"
    config.write_text(json.dumps({"batch_size": 2, "crop_seconds": 0.2, "heads": None, "ema_decay": 0.0}))
    command = ["train", "--out", str(tmp_path / "run"), "--config", str(config), "--workers", "0", "--minutes", "0.02"]
    refused = CliRunner().invoke(main, [*command, "--data", str(clips_folder)])
    assert refused.exit_code == 2 and "one folder from `mtslvr pack`" in refused.output
    assert not (tmp_path / "run").exists()
    began = time.perf_counter()
    result = CliRunner().invoke(main, [*command, "--data", str(packed)])
    assert result.exit_code == 0, result.output
    seconds = time.perf_counter() - began
    steps = json.loads((tmp_path / "run" / "config.json").read_text())["steps"]
    assert 0.2 * 1.2 / (seconds / 25) <= steps <= 1.2 / 0.002


def test_a_config_file_is_changes_to_the_recipe_that_is_named(tmp_path):
    path = tmp_path / "changes.json"
    path.write_text('{"steps": 7}')
    options = dict.fromkeys(("system", "recipe", "contrastive"))
    assert read_config(path, options) == dataclasses.replace(own(System.MT_PARALLEL), steps=7)
    named = {"system": "mt-bn", "recipe": "published", "contrastive": "simsiam"}
    assert read_config(path, named) == dataclasses.replace(published(System.MT_BN, "simsiam"), steps=7)
    path.write_text('{"encoder": {"adapter": "series"}}')
    with pytest.raises(click.UsageError, match=r"--system mt-bn with .* sets another"):
        read_config(path, named)
    path.write_text('{"step": 7}')
    with pytest.raises(ConfigError, match="unknown key 'step'"):
        read_config(path, options)
