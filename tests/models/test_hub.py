import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from narrow import cut_widths

import mtslvr
from mtslvr.cli.embed import embed_command
from mtslvr.config import AdapterKind, EncoderConfig
from mtslvr.errors import CheckpointError, ConfigError, HubError
from mtslvr.models import checkpoint, hub, registry
from mtslvr.nn.encoder import Encoder
from mtslvr.run.table import read_table as read_npz


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    cut_widths(monkeypatch.setattr)


@pytest.fixture
def folder(tmp_path, randomize):
    with torch.random.fork_rng():
        encoder = randomize(Encoder(EncoderConfig(window_seconds=1.0)))
    return encoder.save(tmp_path / "bundled" / "parallel-simclr")


@pytest.fixture
def bundled(folder, monkeypatch):
    hub.default_encoder.cache_clear()
    monkeypatch.setattr(hub, "bundled", lambda: {"parallel-simclr": folder, "small": folder})
    yield folder
    hub.default_encoder.cache_clear()


@pytest.fixture
def none_bundled(monkeypatch):
    hub.default_encoder.cache_clear()
    monkeypatch.setattr(hub, "bundled", dict)
    yield
    hub.default_encoder.cache_clear()


def embedding(encoder):
    x = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    return mtslvr.embed(x, 16000, encoder=encoder)


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


# Bundled names and folders


def test_bundled_folders_are_in_the_package_or_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "mtslvr"
    monkeypatch.setattr(registry, "__file__", str(package / "models" / "registry.py"))
    assert hub.bundled() == {}
    for place in ("weights/b", "weights/a", "weights/unfinished"):
        (tmp_path / place).mkdir(parents=True)
    for place in ("weights/b", "weights/a"):
        (tmp_path / place / "model.safetensors").touch()
    (tmp_path / "weights" / "LICENSE").touch()
    assert hub.bundled() == {"a": tmp_path / "weights/a", "b": tmp_path / "weights/b"}
    installed = package / "weights" / "c"
    installed.mkdir(parents=True)
    (installed / "model.safetensors").touch()
    assert hub.bundled() == {"c": installed}


def test_names_that_are_bundled(bundled):
    assert hub.find() == hub.find("parallel-simclr") == hub.find("small") == bundled


def test_load_of_the_default(bundled):
    encoder = mtslvr.load(device="cpu")
    assert encoder.folded and not encoder.training and encoder.device.type == "cpu"
    unfolded = mtslvr.load("parallel-simclr", device="cpu", fold=False)
    assert not unfolded.folded and not unfolded.training
    assert relative(embedding(encoder), embedding(unfolded)) <= 1e-5


def test_the_default_is_loaded_once(bundled):
    assert hub.default_encoder() is hub.default_encoder()
    assert relative(embedding(None), embedding(mtslvr.load())) <= 1e-5


def test_default_that_is_not_installed(none_bundled):
    with pytest.raises(HubError, match=r"the bundled weights 'parallel-simclr' are not in this installation; reinst"):
        mtslvr.load()


def test_local_folder(none_bundled, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for kind in (str, Path):
        assert hub.find(kind(folder)) == folder
        assert mtslvr.load(kind(folder.name), device="cpu").sample_rate == 16000
    assert hub.find("~/parallel-simclr") == folder


def test_a_folder_is_preferred_to_the_hub(none_bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert hub.find("org/name") == Path("org/name")
    with pytest.raises(CheckpointError, match=r"org/name/config\.json: no such file"):
        mtslvr.load("org/name")


@pytest.mark.parametrize(
    "name",
    ["PARALLEL-SIMCLR", "/nowhere/at/all", "org/name/more", "org/name@", "org/../name", "~nobody-at-all/x", "nu\0ll"],
    ids=lambda name: repr(name)[:30],
)
def test_unknown_names_are_told_the_known_ones(bundled, name):
    with pytest.raises(HubError) as error:
        mtslvr.load(name)
    text = str(error.value)
    assert text.startswith(f"{name!r}: neither a bundled ")
    assert "parallel-simclr, small" in text and "nor a folder" in text
    assert "'org/name' or 'org/name@revision'" in text


def test_a_path_is_never_a_hub_id(bundled):
    with pytest.raises(HubError, match=r"'org/name': no such folder"):
        mtslvr.load(Path("org/name"))


# A bundled name that is a folder, too


@pytest.fixture
def beside(bundled, randomize, tmp_path, monkeypatch):
    """A checkpoint of other weights, named as a bundled one, in the current directory."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        other = randomize(Encoder(EncoderConfig(adapter=AdapterKind.NONE, tasks=1, heads=1, head_dim=8)))
    return other.save(tmp_path / "small")


def test_a_path_is_the_folder_and_never_the_bundled_model(beside):
    assert mtslvr.load(Path("small"), device="cpu").config.head_dim == 8
    assert mtslvr.load("./small", device="cpu").config.head_dim == 8
    shutil.rmtree(beside)
    with pytest.raises(HubError, match=r"'small': no such folder; a Path is always a folder, give a model's name as"):
        mtslvr.load(Path("small"))


def test_a_string_with_two_meanings_is_refused_and_both_are_named(beside, tmp_path):
    with pytest.raises(HubError) as error:
        mtslvr.load("small")
    said = f"'small': both a bundled model and a checkpoint folder in {tmp_path}; for the folder give './small'"
    assert str(error.value).startswith(said) and "for the bundled model rename the folder" in str(error.value)


def test_a_folder_that_is_no_other_checkpoint_leaves_the_bundled_name_alone(bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()  # such as one for results
    assert hub.find("small") == bundled
    monkeypatch.chdir(bundled.parent)
    assert hub.find("parallel-simclr") == bundled


def embed(*arguments):
    return CliRunner().invoke(embed_command, [str(argument) for argument in arguments])


def test_the_command_line_has_the_same_rule_and_records_what_it_used(beside, tmp_path):
    soundfile.write("a.wav", np.random.default_rng(0).standard_normal(16000) / 9, 16000)
    refused = embed("a.wav", "-o", "a.npz", "--model", "small")
    assert refused.exit_code != 0 and "both a bundled model and a checkpoint folder" in refused.output
    assert embed("a.wav", "-o", "a.npz", "--model", "./small").exit_code == 0
    settings = read_npz("a.npz").settings
    assert settings["model"] == str(beside)
    assert settings["model_sha256"] == checkpoint.sha256(beside / checkpoint.WEIGHTS_NAME)
    shutil.rmtree(beside)
    (tmp_path / "small").mkdir()
    assert embed("a.wav", "-o", "b.npz", "--model", "small").exit_code == 0
    assert read_npz("b.npz").settings["model"] == "small"


# Device and dtype


def test_unknown_device(bundled):
    with pytest.raises(ConfigError, match=r"device='tpu-9': unknown; use 'auto', 'cpu' or 'cuda'"):
        mtslvr.load(device="tpu-9")


def test_absent_devices(bundled, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda:1", torch.device("cuda")):
        with pytest.raises(ConfigError, match=r"device=.*cuda.*: torch .* sees no CUDA device; use 'cpu'"):
            mtslvr.load(device=device)
    assert hub.parse_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device='xpu:7': .*use 'cpu'"):
        mtslvr.load(device="xpu:7")


def test_auto_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert hub.parse_device("auto") == torch.device("cuda")


@pytest.mark.skipif(not hub.computes_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16 arithmetic")
def test_bfloat16(bundled):
    encoder = mtslvr.load(device="cpu", dtype="bfloat16")
    expected, found = embedding(mtslvr.load(device="cpu")), embedding(encoder)
    assert encoder.dtype is torch.bfloat16 and found.dtype == np.float32
    assert 1e-5 < relative(found, expected) < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float16"}, r"dtype='float16': unknown; use 'float32' or 'bfloat16'"),
        ({"dtype": "bfloat16", "fold": False}, r"dtype='bfloat16' with fold=False: .*leave fold=True"),
    ],
)
def test_dtypes_that_cannot_be(bundled, arguments, message):
    with pytest.raises(ConfigError, match=message):
        mtslvr.load(**arguments)


def test_bfloat16_where_there_is_none(bundled, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(ConfigError, match=r"dtype='bfloat16': device 'cpu' has no bfloat16 .*use dtype='float32'"):
        mtslvr.load(device="cpu", dtype="bfloat16")
