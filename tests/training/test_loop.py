import contextlib
import csv
import dataclasses
import functools
import json
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
import torch
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.main import main
from mtslvr.cli.train import read_config
from mtslvr.config import AdapterKind
from mtslvr.errors import ConfigError, MTSLVRError
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
start = functools.partial(train, workers=0, device="cpu")


@pytest.fixture(scope="module")
def packed(clips_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "clips"
    pack([clips_folder], folder, 16000)
    return folder


@pytest.fixture(scope="module")
def two_steps(narrow_networks, clips_folder, tmp_path_factory):
    """A run of two steps, with a state saved after each."""
    run = tmp_path_factory.mktemp("two") / "run"
    start(TINY, run, [clips_folder], stop_after=2, save_every=1)
    return run


@pytest.fixture
def run(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "run")


def losses(run, name="losses.csv"):
    with open(run / name, newline="") as file:
        return [(int(row["step"]), float(row["joint"]), float(row["contrastive"])) for row in csv.DictReader(file)]


def weights(folder):
    return mtslvr.load(folder, fold=False).state_dict()


def saved(run):
    return torch.load(run / "state.pt", weights_only=True)


def refused(said, folder, data=(), changes=None, **how):
    with pytest.raises(MTSLVRError, match=said):
        start(dataclasses.replace(TINY, **changes or {}), folder, data, **how)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_leaves_config_losses_state_and_a_loadable_checkpoint(two_steps):
    assert [step for step, *_ in losses(two_steps)] == [0, 1] and saved(two_steps)["step"] == 2
    assert TrainConfig.from_dict(json.loads((two_steps / "config.json").read_text())) == TINY
    environment = json.loads((two_steps / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and environment["git_revision"]
    assert environment["dtype"] == "float32"
    embedding = mtslvr.embed(np.ones(4000, np.float32), 16000, encoder=mtslvr.load(two_steps / "checkpoint"))
    assert embedding.shape == (16,) and np.isfinite(embedding).all()


@pytest.mark.extra("train")
def test_tensorboard_gets_what_the_csv_gets(two_steps):
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(two_steps / "tensorboard"))
    events.Reload()
    found = [(event.step, pytest.approx(event.value)) for event in events.Scalars("losses/joint")]
    assert found == [row[:2] for row in losses(two_steps)]


def test_resume_repeats_the_losses_of_an_uninterrupted_run_and_its_running_mean(packed, tmp_path):
    config, whole, cut = dataclasses.replace(TINY, ema_decay=0.5), tmp_path / "whole", tmp_path / "cut"
    start(config, whole, [packed], save_every=2)

    def kill(report):
        if report["step"] == 2:  # after the state of step 2 was saved, with one more line in losses.csv
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(config, cut, [packed], save_every=2, on_step=kill)
    settings = json.loads((cut / "config.json").read_text())
    (cut / "config.json").write_text(json.dumps({**settings, "sync_batch_norm": True}))  # as 0.2 wrote it
    (cut / "state.pt").rename(cut / "state-previous.pt")  # as 0.2 may leave it
    start(config, cut, workers=1, save_every=2, resume=True)
    assert losses(cut) == losses(whole)
    exported = weights(whole / "checkpoint")
    assert same(exported, weights(cut / "checkpoint"))
    name = "trunk.stem.conv.weight"
    assert saved(whole)["average"]["n_averaged"] == config.steps
    assert torch.equal(exported[name], saved(whole)["average"][f"module.{name}"].half().float())
    assert not torch.equal(exported[name], saved(whole)["objective"][f"encoder.{name}"].half().float())


@pytest.mark.slow
def test_a_killed_process_resumes(packed, tmp_path):
    run, config = tmp_path / "run", dataclasses.replace(TINY, steps=300)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    command = [sys.executable, narrow.__file__, "train", "--out", run, "--device", "cpu", "--data", packed]
    command += ["--config", tmp_path / "config.json", "--save-every", "1", "--workers", "0"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and (not (run / "losses.csv").exists() or len(losses(run)) < 3):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL  # it had not ended by itself
    before, state = losses(run), saved(run)["step"]
    start(config, run, resume=True, stop_after=state + 2)
    after = losses(run)
    assert [step for step, *_ in after] == list(range(state + 2))
    assert after[: min(len(before), state)] == before[:state]


def test_the_loss_falls_on_one_repeated_batch(packed):
    config = dataclasses.replace(TINY, contrastive="simsiam", learning_rate=1e-3, warmup_steps=0, steps=100)
    trainer, batch = Trainer(config, CPU), StepBatches(PackedClips.open(packed), config)[0]
    first, *_, last = [trainer.optimise(batch)[0]["joint"] for _ in range(6)]
    assert last < first - 0.1


# A run that is under way can be gone on with by a later version: same weights, batches and losses.
@pytest.mark.parametrize(("views", "expected"), [(1, [2.70245, 2.66053]), (2, [2.72658, 2.68288])])
def test_the_losses_of_the_recipe_stay_what_they_are(packed, views, expected):
    config = TrainConfig(batch_size=4, steps=2, crop_seconds=0.25, dtype="float32", heads=None, predicted_views=views)
    trainer, batches = Trainer(config, CPU), StepBatches(PackedClips.open(packed), config)
    assert [trainer.optimise(batches[step])[0]["joint"] for step in range(2)] == pytest.approx(expected, rel=1e-3)


def test_schedule_warms_up_and_ends_at_zero():
    config = dataclasses.replace(TINY, steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[55] == pytest.approx(0.5)
    assert rates[-1] < 1e-3


def test_auto_is_bfloat16_where_inference_takes_it_and_weights_that_no_input_reaches_get_no_gradient(packed, tmp_path):
    folder, there = mtslvr.Encoder(mtslvr.EncoderConfig()).save(tmp_path), False
    with contextlib.suppress(ConfigError):
        there = mtslvr.load(folder, device="cpu", dtype="bfloat16").dtype is torch.bfloat16
    assert TrainConfig().dtype == "auto" and half(TrainConfig(), CPU) is there
    assert half(TrainConfig(dtype="bfloat16"), CPU) and not half(TrainConfig(dtype="float32"), CPU)
    config = dataclasses.replace(TINY, dtype="bfloat16", crop_seconds=0.25)  # the last stage reads one column
    trainer = Trainer(config, CPU)
    trainer.optimise(StepBatches(PackedClips.open(packed), config)[0])
    assert not trainer.objective.encoder.branches.layer4[0].conv1.conv.weight.grad[..., 0].any()
    assert [half(dataclasses.replace(config, crop_seconds=seconds), CPU) for seconds in (0.48, 0.52)] == [False, True]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_state(run):
    state = saved(run)
    broken = {**state["objective"], "projector.2.bias": torch.full((256,), torch.nan)}
    torch.save({**state, "objective": broken}, run / "state.pt")
    refused(r"step 2: joint loss nan, .* last good state is .*state\.pt", run, resume=True, save_every=1)
    assert saved(run)["step"] == 2 and torch.isfinite(saved(run)["objective"]["projector.0.weight"]).all()


def test_another_run_can_start_from_the_weights_of_one(packed, clips_folder, tmp_path, capsys):
    wide = dataclasses.replace(TINY, encoder=dataclasses.replace(TINY.encoder, spectral_statistics=True))
    first = start(wide, tmp_path / "first", [packed], stop_after=1)
    assert not (tmp_path / "first" / "clips").exists()  # packed clips stay where they are
    still, before = dataclasses.replace(TINY, learning_rate=0.0, steps=1), weights(first)
    for name, source in (("run", tmp_path / "first"), ("checkpoint", first)):
        second = start(still, tmp_path / name, [packed, clips_folder], init=source)
        assert len(PackedClips.open(tmp_path / name / "clips")) == 10
        assert "heads read other features; new ones start at random (heads.1.weight)" in capsys.readouterr().err
        found = mtslvr.load(second, fold=False)
        assert found.config == TINY.encoder
        others = [key for key, _ in found.named_parameters() if key != "heads.1.weight"]
        assert all(torch.equal(found.get_parameter(key), before[key]) for key in others)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["init"] == str(tmp_path / "first")


def test_wrong_starts_have_clear_errors_and_take_nothing(clips_folder, packed, run, tmp_path):
    new, silent, file = tmp_path / "new", tmp_path / "silent", tmp_path / "file"
    silent.mkdir()
    file.touch()

    refused("no --data for a new run", new)
    if not torch.cuda.is_available():
        refused("sees no CUDA device; use 'cpu'", new, [packed], device="cuda")
    assert not new.exists()
    refused("silent", new, [silent])
    refused("nowhere", new, [packed], init=tmp_path / "nowhere")
    refused("weights of another network", new, [packed], {"encoder": encoder_config(AdapterKind.BN)}, init=run)
    refused("5 clips are fewer than a batch of 9", new, [packed], {"batch_size": 9})
    few = {"batch_size": 2, "validation_fraction": 0.2, "validate_every": 1}
    refused("1 validation clips are fewer than a batch of 2", new, [packed], few)
    heads = HeadsConfig(clips=600, crop_seconds=1.5)
    refused(r"at most 1\.50 s.*lower heads\.crop_seconds", new, [packed], {"heads": heads})
    refused("no training run", tmp_path / "none", [packed], resume=True)
    refused("cannot write the packed clips", file / "run", [clips_folder])
    refused("holds a run already; go on with --resume", run, [packed])
    refused(r"temperature was .*, now 0\.3", run, [packed], {"temperature": 0.3}, resume=True)
    assert len(losses(run)) == 2
    pack([clips_folder], tmp_path / "slow", 8000)
    refused("packed at 8000 Hz, the encoder takes 16000", new, [tmp_path / "slow"])


def test_files_of_a_run_that_are_damaged_are_named_and_nothing_changes(clips_folder, two_steps, run):
    state, facts = run / "state.pt", run / "environment.json"
    whole, given = state.read_bytes(), saved(run)
    for path, content, said in (
        (state, whole[:1000], r"not the state of a run \(.+\); .* delete it to begin again"),
        (state, {"weights": torch.zeros(3)}, "not the state of a run"),
        (state, {**given, "objective": {"encoder.weight": torch.zeros(1)}}, "not the state of this run"),
        (facts, b'{"mtslvr": "0.', "not readable .* delete it and resume with the run's"),
    ):
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        before = {file: file.read_bytes() for file in run.glob("*.*")}
        refused(rf"{path.name}: {said}", run, resume=True)
        assert {file: file.read_bytes() for file in run.glob("*.*")} == before
        state.write_bytes(whole)
    facts.unlink()
    with open(run / "losses.csv", "ab") as file:
        file.write(b"2,\xff\xfe\0,,\n,,,\nx")  # what a stop may leave; a run goes on
    start(TINY, run, [clips_folder], resume=True, stop_after=3)
    assert losses(run)[:2] == losses(two_steps) and len(losses(run)) == 3


def test_a_disk_that_fills_up_leaves_the_last_state(run):
    before = (run / "state.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        refused(r"state\.pt.*: cannot write .* free space and go on with --resume", run, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (run / "state.pt").read_bytes() == before and not list(run.glob("*.part"))
    start(TINY, run, resume=True)
    assert [step for step, *_ in losses(run)] == [0, 1, 2, 3]


def test_a_run_goes_on_with_its_own_data_only(run, tmp_path, write):
    other = tmp_path / "other"
    for i in range(4):
        write(other / f"{i}.wav", 0.5, i)
    refused("--resume with other --data .*other; the run has .*audio.*leave --data out", run, [other], resume=True)
    pack([other], tmp_path / "packed", 16000)
    refused("packed: other clips than those that .*run began with", run, [tmp_path / "packed"], resume=True)
    moved = shutil.move(run / "clips", tmp_path / "moved")
    refused("no packed clips", run, resume=True)
    start(TINY, run, [moved], resume=True, stop_after=3)
    start(TINY, run, resume=True)
    assert len(losses(run)) == 4


def test_validation_is_logged_and_the_best_checkpoint_kept(packed, tmp_path):
    worse = dataclasses.replace(HELD_OUT, learning_rate=0.1, warmup_steps=20)  # larger steps each time, all too large
    trainer, held_out = Trainer(worse, CPU), StepBatches(PackedClips.open(packed), worse, validation=True)
    before = {key: value.clone() for key, value in trainer.objective.state_dict().items()}
    assert trainer.validate(held_out) == trainer.validate(held_out)
    assert same(trainer.objective.state_dict(), before)
    folder = start(worse, tmp_path / "run", [packed])
    found = losses(tmp_path / "run", "validation.csv")
    assert [step for step, *_ in found] == [2, 4, 6] and np.isfinite([joint for _, joint, _ in found]).all()
    best = min(found, key=lambda row: row[1])[0]
    assert best < 6  # else the last checkpoint would be as good
    assert same(weights(folder), weights(start(worse, tmp_path / "two", [packed], stop_after=best)))


def test_a_run_stops_when_its_patience_ends_and_resumes_with_what_it_waited(packed, tmp_path):
    config, run = dataclasses.replace(HELD_OUT, validate_every=1, patience=3), tmp_path / "run"
    start(config, run, [packed], stop_after=2)
    torch.save({**saved(run), "best": -1.0, "waited": 1}, run / "state.pt")  # no loss is as low
    start(config, run, resume=True)
    assert len(losses(run)) == len(losses(run, "validation.csv")) == 4 < config.steps
    assert saved(run)["waited"] == 3


@pytest.mark.slow
def test_minutes_set_the_schedule_by_the_clock(clips_folder, packed, tmp_path):
    config, run = tmp_path / "changes.json", tmp_path / "run"
    config.write_text(json.dumps({"batch_size": 2, "crop_seconds": 0.2, "heads": None, "ema_decay": 0.0}))
    command = ["train", "--out", str(run), "--config", str(config), "--workers", "0", "--minutes", "0.02", "--data"]
    result = CliRunner().invoke(main, [*command, str(clips_folder)])
    assert result.exit_code == 2 and "one folder from `mtslvr pack`" in result.output and not run.exists()
    began = time.perf_counter()
    result = CliRunner().invoke(main, [*command, str(packed)])
    assert result.exit_code == 0, result.output
    seconds = time.perf_counter() - began
    steps = json.loads((run / "config.json").read_text())["steps"]
    assert 0.2 * 1.2 / (seconds / 25) <= steps <= 1.2 / 0.002


def test_a_config_file_is_changes_to_the_recipe_that_is_named(tmp_path):
    path, options = tmp_path / "changes.json", dict.fromkeys(("system", "recipe", "contrastive"))
    named = {"system": "mt-bn", "recipe": "published", "contrastive": "simsiam"}
    path.write_text('{"steps": 7}')
    assert read_config(path, options) == dataclasses.replace(own(System.MT_PARALLEL), steps=7)
    assert read_config(path, named) == dataclasses.replace(published(System.MT_BN, "simsiam"), steps=7)
    path.write_text('{"encoder": {"adapter": "series"}}')
    with pytest.raises(click.UsageError, match=r"--system mt-bn with .* sets another"):
        read_config(path, named)
