"""Two gloo processes on the CPU take the step that one process takes on the same global batch."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import ddp_worker
import numpy as np
import pytest
import soundfile
import torch

from mtslvr.config import AdapterKind
from mtslvr.errors import TrainingError
from mtslvr.training import distributed
from mtslvr.training.config import TrainConfig, encoder_config
from mtslvr.training.data import pack
from mtslvr.training.loop import train

CONFIG = TrainConfig(
    encoder=encoder_config(AdapterKind.PARALLEL),
    steps=2,
    batch_size=4,
    crop_seconds=0.3,
    crops=2,
    temperature=0.5,
    mix_probability=0.5,
    equalizer_db=3.0,
    warmup_steps=0,
    learning_rate=1e-5,
    dtype="float32",
    predicted_views=2,
    ema_decay=0.0,
    heads=None,
    validation_fraction=0.4,
    validate_every=1,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("audio")
    generator = np.random.default_rng(0)
    for i in range(10):
        tone = np.sin(2 * np.pi * 200 * (i + 1) * np.arange(8000) / 16000)
        soundfile.write(root / f"{i}.wav", 0.2 * tone + 0.05 * generator.standard_normal(8000), 16000)
    pack([root], root / "packed", 16000)
    return root / "packed"


@pytest.fixture(scope="module")
def two_processes(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    (out / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [ddp_worker.__file__, out / "config.json", clips, out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(ddp_worker.__file__).parent)
    assert done.returncode == 0, done.stderr
    return out


def lines(run, name):
    with open(run / name, newline="") as file:
        return list(csv.DictReader(file))


def test_gradients_losses_and_batch_statistics_are_those_of_one_process(clips, two_processes):
    found, losses, buffers = torch.load(two_processes / "gradients.pt", weights_only=True)
    expected, expected_losses, expected_buffers = ddp_worker.gradients(clips, CONFIG)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-6)
    assert expected_losses.min() > 0 and found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.norm().item()
        # Float32 rounding is amplified by batch norms over few samples; a wrong mean or sum over ranks is off by half.
        assert (found[name] - gradient).norm().item() <= 2e-2 * scale + 1e-6, name
    for name, value in expected_buffers.items():
        torch.testing.assert_close(buffers[name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_a_run_of_two_processes_logs_what_a_run_of_one_does(clips, two_processes, tmp_path):
    train(CONFIG, tmp_path / "one", [clips], workers=0, device="cpu")
    for name in ("losses.csv", "validation.csv"):
        one, two = lines(tmp_path / "one", name), lines(two_processes / "run", name)
        assert [row["step"] for row in one] == [row["step"] for row in two] and len(one) == 2
        for a, b in zip(one, two, strict=True):
            for column in ("joint", "contrastive", "predictive"):
                assert float(b[column]) == pytest.approx(float(a[column]), rel=1e-3)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not list threads")
def test_no_thread_of_the_backend_outlives_training(two_processes):
    # One that still holds a tensor while the interpreter ends aborts the process, and torchrun calls the run failed.
    for rank in range(2):
        threads = json.loads((two_processes / f"threads-{rank}.json").read_text())
        assert any("gloo" in name for name in threads["during"])
        assert not any("gloo" in name for name in threads["after"])


def test_a_batch_that_does_not_split_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 3)
    with pytest.raises(TrainingError, match="batch_size=4 does not split into 3 processes"):
        distributed.share(4)


def test_alone_nothing_is_synchronised():
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    assert distributed.synchronise_norms(module, torch.device("cpu")) is module
    assert type(module[0]) is torch.nn.BatchNorm1d
    z = torch.randn(2, 3)
    assert distributed.gather(z, 0) is z and distributed.mean(z) is z
    assert distributed.on_first(lambda: 5) == 5


def test_global_batch_norm_alone_is_batch_norm(monkeypatch):
    torch.manual_seed(0)
    ours, theirs = torch.nn.BatchNorm2d(5), torch.nn.BatchNorm2d(5)
    ours.__class__ = distributed.GlobalBatchNorm
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: None)
    x = torch.randn(4, 5, 6, 7) * 3 + 2
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(4, 5, 6, 7)
    for norm, y in ((ours, x1), (theirs, x2)):
        (norm(y) * weights).sum().backward()
    torch.testing.assert_close(x1.grad, x2.grad, rtol=1e-4, atol=1e-5)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_an_error_on_the_first_process_is_raised(tmp_path):
    with pytest.raises(TrainingError, match="no --data for a new run"):
        train(dataclasses.replace(CONFIG), tmp_path / "run", workers=0, device="cpu")
