import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fill_rule import relative

import mtslvr
from mtslvr.api import get_encoder
from mtslvr.cli.embed import embed_command
from mtslvr.config import AdapterKind, EncoderConfig
from mtslvr.errors import CheckpointError, ConfigError, HubError
from mtslvr.models import checkpoint, hub
from mtslvr.nn.encoder import Encoder

pytestmark = pytest.mark.usefixtures("narrow_encoders")


@pytest.fixture
def bundled(tmp_path, randomize, monkeypatch):
    with torch.random.fork_rng():
        encoder = randomize(Encoder(EncoderConfig(window_seconds=1.0)))
    folder = encoder.save(tmp_path / "bundled" / "parallel-simclr-v2")
    monkeypatch.setattr(hub, "bundled", lambda: {"parallel-simclr-v2": folder, "small": folder})
    monkeypatch.chdir(tmp_path)
    return folder


def embedding(encoder):
    x = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    return mtslvr.embed(x, 16000, encoder=encoder)


def error_of(name=None):
    with pytest.raises(HubError) as caught:
        mtslvr.load(name)
    return str(caught.value)


def test_bundled_folders_are_in_the_package_or_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "mtslvr"
    monkeypatch.setattr(hub, "__file__", str(package / "models" / "hub.py"))
    assert hub.bundled() == {}
    for folder, name in (("b", "model.safetensors"), ("a", "model.safetensors"), ("unfinished", "config.json")):
        (tmp_path / "weights" / folder).mkdir(parents=True)
        (tmp_path / "weights" / folder / name).touch()
    assert hub.bundled() == {"a": tmp_path / "weights/a", "b": tmp_path / "weights/b"}
    shutil.copytree(tmp_path / "weights" / "b", package / "weights" / "c")
    assert hub.bundled() == {"c": package / "weights" / "c"}


def test_names_that_are_bundled(bundled, monkeypatch):
    assert hub.find() == hub.find("parallel-simclr-v2") == hub.find("small") == bundled
    encoder = mtslvr.load(device="cpu")
    assert encoder.folded and not encoder.training and encoder.device.type == "cpu"
    unfolded = mtslvr.load("parallel-simclr-v2", device="cpu", fold=False)
    assert not unfolded.folded and not unfolded.training
    assert relative(embedding(encoder), embedding(unfolded)) <= 1e-5
    for name in ("PARALLEL-SIMCLR", "/nowhere", "org/name/more", "org/name@", "org/../name", "~nobody/x", "nu\0ll"):
        known = "(parallel-simclr-v2, small), nor a folder, nor a hub repository like 'org/name' or 'org/name@revision'"
        assert error_of(name) == f"{name!r}: neither a bundled name {known}"
    said = "'parallel-simclr': the weights of mtslvr 0.2, which this version does not have; 'parallel-simclr-v2' takes"
    assert error_of("parallel-simclr").startswith(said)
    monkeypatch.setattr(hub, "bundled", dict)
    assert error_of().startswith("the bundled weights 'parallel-simclr-v2' are not in this installation; reinstall")


def test_folders_are_preferred_to_the_hub(bundled, tmp_path, monkeypatch):
    folder = bundled.rename(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (folder, str(folder), "mine", Path("mine"), "~/mine"):
        assert hub.find(name).resolve() == folder
        assert np.array_equal(embedding(name), embedding(mtslvr.load(folder)))
        assert get_encoder(name) is get_encoder(name)
    for file in ("mine/model.safetensors", str(folder / "config.json")):  # never asked of a hub
        assert error_of(file).startswith(f"{file!r}: is a file, and a checkpoint is a folder with config.json and")
    before, other = embedding("mine"), mtslvr.load(folder, fold=False)
    torch.nn.init.zeros_(other.heads[0].weight)
    other.save(folder)
    assert relative(embedding("mine"), before) > 1e-3  # loaded again
    assert error_of(Path("org/name")).startswith("'org/name': no such folder; a Path is always a folder, give")
    (tmp_path / "org" / "name").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"org/name/config\.json: no such file"):
        mtslvr.load("org/name")


def test_a_bundled_name_that_is_a_folder_too(bundled, randomize, tmp_path, monkeypatch, write):
    def embed(output, model):
        return CliRunner().invoke(embed_command, ["a.wav", "-o", output, "--model", model])

    (tmp_path / "small").mkdir()  # such as one for results
    assert hub.find("small") == bundled
    with torch.random.fork_rng():
        other = randomize(Encoder(EncoderConfig(adapter=AdapterKind.NONE, tasks=1, heads=1, head_dim=8)))
    other.save(tmp_path / "small")
    for name in (Path("small"), "./small"):
        assert mtslvr.load(name, device="cpu").config.head_dim == 8
    write("a.wav", 1)
    refused = embed("a.npz", "small")
    said = f"'small': both a bundled model and a checkpoint folder in {tmp_path}; for the folder give './small' or"
    assert refused.exit_code != 0 and said in refused.output
    assert embed("a.npz", "./small").exit_code == 0
    settings = mtslvr.read_table("a.npz").settings
    assert settings["model"] == str(tmp_path / "small")
    assert settings["model_sha256"] == checkpoint.sha256(tmp_path / "small" / checkpoint.WEIGHTS_NAME)
    shutil.rmtree(tmp_path / "small")
    assert embed("b.npz", "small").exit_code == 0
    assert mtslvr.read_table("b.npz").settings["model"] == "small"
    monkeypatch.chdir(bundled.parent)  # the folder is that of the bundled model
    assert hub.find("parallel-simclr-v2") == bundled


def test_devices_and_dtypes(bundled, monkeypatch):
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert hub.parse_device("auto") == torch.device(kind)
    for device, said in (
        ("tpu-9", "device='tpu-9': unknown; use 'auto', 'cpu' or 'cuda'"),
        ("cuda:1", r"device='cuda:1': torch .* sees no CUDA device; use 'cpu'"),
        (torch.device("cuda"), r"device=.*cuda.*: torch .* sees no CUDA device; use 'cpu'"),
        ("xpu:7", r"device='xpu:7': .*use 'cpu'"),
        ("mps", r"^device='mps': absent \(.{1,150}\); use 'cpu'$"),
    ):
        with pytest.raises(ConfigError, match=said):
            mtslvr.load(device=device)
    if hub.computes_bfloat16(torch.device("cpu")):
        encoder = mtslvr.load(device="cpu", dtype="bfloat16")
        expected, found = embedding(mtslvr.load(device="cpu")), embedding(encoder)
        assert encoder.dtype is torch.bfloat16 and found.dtype == np.float32
        assert 1e-5 < relative(found, expected) < 0.05
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    for arguments, said in (
        ({"dtype": "float16"}, r"dtype='float16': unknown; use 'float32' or 'bfloat16'"),
        ({"dtype": "bfloat16", "fold": False}, r"dtype='bfloat16' with fold=False: .*leave fold=True"),
        ({"dtype": "bfloat16"}, r"dtype='bfloat16': device 'cpu' has no bfloat16 .*use dtype='float32'"),
    ):
        with pytest.raises(ConfigError, match=said):
            mtslvr.load(device="cpu", **arguments)
