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
import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.main import main
from mtslvr.cli.train import read_config
from mtslvr.config import AdapterKind
from mtslvr.errors import ConfigError, MTSLVRError, TrainingError
from mtslvr.training import loop
from mtslvr.training.config import TrainConfig, encoder_config
from mtslvr.training.data import PackedClips, pack
from mtslvr.training.loop import learning_rate, train
from mtslvr.training.recipes import System, own, published

TINY = TrainConfig(
    steps=4, batch_size=4, crop_seconds=0.3, warmup_steps=1, dtype="float32", learning_rate=1e-4, predicted_views=2,
    ema_decay=0.0, heads=None,
)  # fmt: skip


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
    assert environment["dtype"] == "float32"
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


def test_a_run_starts_from_weights_of_another_front_end(audio, tmp_path):
    wide = dataclasses.replace(TINY, encoder=dataclasses.replace(TINY.encoder, spectral_statistics=True))
    train(wide, tmp_path / "first", [audio], workers=0, device="cpu", stop_after=1)
    frontend = dataclasses.replace(wide.encoder.frontend, n_mels=64)
    narrow = dataclasses.replace(
        wide, learning_rate=0.0, steps=1, encoder=dataclasses.replace(wide.encoder, frontend=frontend)
    )
    found = []
    for name in ("first", "first/checkpoint"):
        out = tmp_path / f"second{len(found)}"
        folder = train(narrow, out, [audio], workers=0, device="cpu", init=tmp_path / name)
        found.append(mtslvr.load(folder, fold=False))
        assert found[-1].config == narrow.encoder
    start = mtslvr.load(tmp_path / "first" / "checkpoint", fold=False).state_dict()
    for encoder in found:
        assert encoder.heads[1].in_features == start["heads.1.weight"].shape[1] - 3 * 64
        others = [key for key, _ in encoder.named_parameters() if key != "heads.1.weight"]
        assert all(torch.equal(encoder.get_parameter(key), start[key]) for key in others)


def test_schedule_warms_up_and_ends_at_zero():
    config = dataclasses.replace(TINY, steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[55] == pytest.approx(0.5)
    assert rates[-1] < 1e-3


def test_wrong_starts_have_clear_errors_and_overwrite_nothing(audio, tmp_path):
    run = tmp_path / "run"
    train(TINY, run, [audio], workers=0, device="cpu", stop_after=1)
    with pytest.raises(TrainingError, match="holds a run already; go on with --resume"):
        train(TINY, run, [audio], device="cpu")
    other = dataclasses.replace(TINY, temperature=0.3)
    with pytest.raises(TrainingError, match=r"temperature was .*, now 0\.3"):
        train(other, run, [audio], resume=True, device="cpu")
    with pytest.raises(TrainingError, match="no run to resume"):
        train(TINY, tmp_path / "none", [audio], resume=True, device="cpu")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(TrainingError, match="cannot write the packed clips"):
        train(TINY, blocked / "run", [audio], device="cpu")


def test_a_start_that_fails_does_not_take_the_folder(audio, tmp_path):
    run, silent = tmp_path / "run", tmp_path / "silent"
    silent.mkdir()
    with pytest.raises(TrainingError, match="no --data for a new run"):
        train(TINY, run, device="cpu")
    assert not run.exists()
    with pytest.raises(MTSLVRError, match="silent"):
        train(TINY, run, [silent], device="cpu")
    with pytest.raises(TrainingError, match="6 clips are fewer than a batch of 9"):
        train(dataclasses.replace(TINY, batch_size=9), run, [audio], device="cpu")
    train(TINY, run, [audio], workers=0, device="cpu", stop_after=1)
    assert len(losses(run)) == 1


@pytest.fixture(scope="module")
def two_steps(audio, tmp_path_factory):
    """A run of two steps, with a state saved after each."""
    run = tmp_path_factory.mktemp("two") / "run"
    train(TINY, run, [audio], workers=0, device="cpu", stop_after=2, save_every=1)
    return run


def cut_short(path):
    path.write_bytes(path.read_bytes()[:1000])


def emptied(path):
    path.write_bytes(b"")


def of_something_else(path):
    torch.save({"weights": torch.zeros(3)}, path)


@pytest.mark.parametrize("break_it", [cut_short, emptied, of_something_else])
def test_a_broken_state_is_named_and_the_one_before_goes_on(two_steps, tmp_path, break_it, capsys):
    run = shutil.copytree(two_steps, tmp_path / "run")
    break_it(run / "state.pt")
    train(TINY, run, workers=0, device="cpu", resume=True, stop_after=2)
    assert "state.pt: not the state of a run" in capsys.readouterr().err
    assert losses(run) == losses(two_steps)
    for name in ("state.pt", "state-previous.pt"):
        break_it(run / name)
    before = {path: path.read_bytes() for path in run.glob("*.*")}
    with pytest.raises(TrainingError, match=r"state\.pt: not the state of a run \(.+\); .* delete it to begin again"):
        train(TINY, run, workers=0, device="cpu", resume=True)
    assert {path: path.read_bytes() for path in run.glob("*.*")} == before


def test_the_state_of_another_network_is_refused(two_steps, tmp_path):
    run = shutil.copytree(two_steps, tmp_path / "run")
    state = torch.load(run / "state.pt", weights_only=True)
    torch.save({**state, "objective": {"encoder.weight": torch.zeros(1)}}, run / "state.pt")
    with pytest.raises(TrainingError, match=r"state\.pt: not the state of this run"):
        train(TINY, run, workers=0, device="cpu", resume=True)


def test_a_torn_environment_and_torn_losses_do_not_stop_a_run(audio, two_steps, tmp_path):
    run = shutil.copytree(two_steps, tmp_path / "run")
    (run / "environment.json").write_text('{"mtslvr": "0.')
    with pytest.raises(TrainingError, match=r"environment\.json: not readable .* delete it and resume with the run's"):
        train(TINY, run, workers=0, device="cpu", resume=True)
    (run / "environment.json").unlink()
    with open(run / "losses.csv", "ab") as file:
        file.write(b"2,\xff\xfe\0,,\n,,,\nx")
    train(TINY, run, [audio], workers=0, device="cpu", resume=True, stop_after=3)
    assert losses(run)[:2] == losses(two_steps) and len(losses(run)) == 3


def test_a_disk_that_fills_up_leaves_the_last_state(two_steps, tmp_path):
    run = shutil.copytree(two_steps, tmp_path / "run")
    before = (run / "state.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"state\.pt.*: cannot write .* free space and go on with --resume"):
            train(TINY, run, workers=0, device="cpu", resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (run / "state.pt").read_bytes() == before and not list(run.glob("*.part"))
    train(TINY, run, workers=0, device="cpu", resume=True)
    assert [step for step, *_ in losses(run)] == [0, 1, 2, 3]


def test_a_run_goes_on_with_its_own_data_only(audio, two_steps, tmp_path):
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


def test_packed_folders_and_folders_of_audio_are_trained_on_together(audio, tmp_path):
    for name in ("one", "two"):
        pack([audio], tmp_path / name, 16000)
    config = dataclasses.replace(TINY, batch_size=18)
    train(config, tmp_path / "run", [tmp_path / "one", audio, tmp_path / "two"], workers=0, device="cpu", stop_after=1)
    assert len(PackedClips.open(tmp_path / "run" / "clips")) == 18


def test_auto_is_bfloat16_where_inference_takes_it(unfolded_encoder, tmp_path):
    folder = unfolded_encoder.save(tmp_path)
    try:
        there = mtslvr.load(folder, device="cpu", dtype="bfloat16").dtype is torch.bfloat16
    except ConfigError as error:
        there = "no bfloat16 arithmetic" not in str(error)
    cpu = torch.device("cpu")
    assert TrainConfig().dtype == "auto" and loop.half("auto", cpu) is there
    assert loop.half("bfloat16", cpu) and not loop.half("float32", cpu)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_cuda_asked_for_and_absent(tmp_path):
    with pytest.raises(TrainingError, match="sees no CUDA device; use --device cpu"):
        train(TINY, tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()


def test_validation_is_logged_and_the_best_checkpoint_kept(audio, tmp_path, monkeypatch):
    config = dataclasses.replace(
        TINY, steps=6, batch_size=2, validation_fraction=0.34, validate_every=2, learning_rate=1e-3
    )
    found = []

    def rising(*arguments):
        found.append(torch.tensor([1.0 + len(found), 0.5, 0.5]))
        return found[-1]

    real = loop.validate(*prepared(config, audio, tmp_path))
    assert torch.isfinite(real).all() and real[0] > 0
    monkeypatch.setattr(loop, "validate", rising)
    train(config, tmp_path / "run", [audio], workers=0, device="cpu")
    with open(tmp_path / "run" / "validation.csv", newline="") as file:
        assert [(int(row["step"]), float(row["joint"])) for row in csv.DictReader(file)] == [(2, 1), (4, 2), (6, 3)]
    first = train(dataclasses.replace(config), tmp_path / "two", [audio], workers=0, device="cpu", stop_after=2)
    best, of_two_steps = (mtslvr.load(path, fold=False).state_dict() for path in (tmp_path / "run/checkpoint", first))
    assert all(torch.equal(best[key], of_two_steps[key]) for key in best)


def prepared(config, audio, tmp_path):
    """Arguments of `validate` for a fresh network."""
    from mtslvr.training.views import StepBatches

    pack([audio], tmp_path / "packed", 16000)
    batches = StepBatches(PackedClips.open(tmp_path / "packed"), config, validation=True)
    return loop.make_objective(config), None, batches, torch.device("cpu"), config


def test_validation_repeats_and_changes_nothing(audio, tmp_path):
    config = dataclasses.replace(TINY, batch_size=2, validation_fraction=0.34, validate_every=2)
    arguments = prepared(config, audio, tmp_path)
    before = {key: value.clone() for key, value in arguments[0].state_dict().items()}
    first = loop.validate(*arguments)
    assert torch.equal(loop.validate(*arguments), first)
    assert all(torch.equal(value, before[key]) for key, value in arguments[0].state_dict().items())


def test_a_run_stops_when_its_patience_ends_and_resumes_with_what_it_waited(audio, tmp_path, monkeypatch):
    config = dataclasses.replace(
        TINY, steps=9, batch_size=2, validation_fraction=0.34, validate_every=1, patience=3, learning_rate=0.0
    )
    losses_of = iter([2.0, 1.0, 1.5, 1.5, 1.5, 1.5])
    monkeypatch.setattr(loop, "validate", lambda *arguments: torch.tensor([next(losses_of), 1.0, 0.0]))
    train(config, tmp_path / "run", [audio], workers=0, device="cpu", stop_after=3, save_every=1)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["waited"] == 1
    train(config, tmp_path / "run", workers=0, device="cpu", resume=True, save_every=1)
    assert [step for step, *_ in losses(tmp_path / "run")] == [0, 1, 2, 3, 4]


def test_the_running_mean_of_the_weights_is_exported_and_resumed(audio, tmp_path):
    config = dataclasses.replace(TINY, ema_decay=0.5, learning_rate=1e-3)
    train(config, tmp_path / "whole", [audio], workers=0, device="cpu", save_every=1)
    train(config, tmp_path / "cut", [audio], workers=0, device="cpu", stop_after=2)
    train(config, tmp_path / "cut", workers=0, device="cpu", resume=True)
    whole, cut = (mtslvr.load(tmp_path / run / "checkpoint", fold=False).state_dict() for run in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    state = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)
    name = "trunk.stem.conv.weight"
    assert torch.equal(whole[name], state["average"][f"module.{name}"].half().float())
    assert not torch.equal(whole[name], state["objective"][f"encoder.{name}"].half().float())


def test_packed_clips_serve_several_runs_and_their_rate_is_checked(audio, tmp_path):
    pack([audio], tmp_path / "packed", 16000)
    for run in ("one", "two"):
        train(TINY, tmp_path / run, [tmp_path / "packed"], workers=0, device="cpu", stop_after=1)
        assert not (tmp_path / run / "clips").exists()
    train(TINY, tmp_path / "one", workers=0, device="cpu", resume=True)
    assert len(losses(tmp_path / "one")) == TINY.steps
    pack([audio], tmp_path / "slow", 8000)
    with pytest.raises(TrainingError, match="packed at 8000 Hz, the encoder takes 16000"):
        train(TINY, tmp_path / "three", [tmp_path / "slow"], workers=0, device="cpu")


@pytest.mark.extra("train")
def test_tensorboard_gets_what_the_csv_gets(audio, tmp_path):
    from tensorboard.backend.event_processing import event_accumulator

    train(TINY, tmp_path / "run", [audio], workers=0, device="cpu")
    events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    joint = [(event.step, event.value) for event in events.Scalars("losses/joint")]
    assert [(step, pytest.approx(value)) for step, value in joint] == [
        (step, float(value)) for step, value, _ in losses(tmp_path / "run")
    ]


def test_minutes_set_the_schedule_by_the_clock(audio, tmp_path):
    pack([audio], tmp_path / "packed", 16000)
    config = tmp_path / "changes.json"
    config.write_text(json.dumps({"batch_size": 2, "crop_seconds": 0.2, "heads": None, "ema_decay": 0.0}))
    command = ["train", "--out", str(tmp_path / "run"), "--config", str(config), "--workers", "0", "--minutes", "0.02"]
    refused = CliRunner().invoke(main, [*command, "--data", str(audio)])
    assert refused.exit_code == 2 and "one folder from `mtslvr pack`" in refused.output
    assert not (tmp_path / "run").exists()
    began = time.perf_counter()
    result = CliRunner().invoke(main, [*command, "--data", str(tmp_path / "packed")])
    assert result.exit_code == 0, result.output
    seconds = time.perf_counter() - began
    steps = json.loads((tmp_path / "run" / "config.json").read_text())["steps"]
    assert 0.2 * 1.2 / (seconds / 25) <= steps <= 1.2 / 0.005


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
