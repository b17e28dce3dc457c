"""Nothing that is downloaded runs, and a config of any format is read or refused by name."""

import ast
import io
import json
import mmap
import os
import re
import shutil
import stat
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mtslvr
from mtslvr import config
from mtslvr.config import EncoderConfig, FrontendConfig
from mtslvr.errors import CheckpointError, ConfigError
from mtslvr.models import checkpoint, registry

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


def config_with(folder, **values):
    config = json.loads((folder / "config.json").read_bytes())
    config["frontend"] |= values.pop("frontend", {})
    return json.dumps({**config, **values}).encode()


def test_hostile_configs_are_refused_before_anything_is_allocated(folder):
    long_window = {"window_seconds": 600, "frontend": {"sample_rate": 384000, "hop_length": 1}}
    cases = {
        "head_dim=1000000000": config_with(folder, head_dim=10**9),
        "frontend.n_fft=1048576": config_with(folder, frontend={"n_fft": 1 << 20}),
        "frontend.sample_rate=1000000000000": config_with(folder, frontend={"sample_rate": 10**12}),
        "so small that a window takes 67108864 numbers at most": config_with(folder, **long_window),
        "not a readable JSON file": b"[" * 500_000,
        "not a readable JSON file (Exceeds": b'{"format_version": ' + b"9" * 500_000 + b"}",
        "unknown key '__class__'": config_with(folder, __class__="os.system"),
        "unknown key 'auto_map'": config_with(folder, auto_map={"AutoModel": "evil.py"}),
        "expected an object, got list": b"[]",
        "adapter='AAAA": config_with(folder, adapter="A" * 900_000),
    }
    for message, content in cases.items():
        (folder / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"config\.json: .*{re.escape(message)}") as error:
            checkpoint.load(folder)
        assert len(str(error.value)) < 1500 + len(str(folder))


def test_weights_that_are_none(folder):
    path = folder / "model.safetensors"
    for content in (b"", b"<html>login</html>", (10**15).to_bytes(8, "little") + b"{}", path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"safetensors: not a safetensors file .*convert it again"):
            checkpoint.load(folder)


OBEYED = "\x1b]0;title\x07\x1b[31m"  # names the window and colours the text of a terminal


def test_names_of_tensors_cannot_obey_or_flood_a_terminal(folder, tmp_path):
    save_file({OBEYED + "x" * 5000: torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*extra tensor") as error:
        checkpoint.load(folder)
    assert str(error.value).isprintable() and len(str(error.value)) < 1500


def test_names_in_a_pickle_cannot_obey_or_flood_a_terminal(tmp_path):
    """A global of any name is refused, and its name is in the message."""
    (tmp_path / "a.pt").write_bytes(b"\x80\x02c" + (OBEYED + "x" * 5000).encode() + b"\nrun\n.")
    with pytest.raises(CheckpointError, match=r"a\.pt: refused, .*\(GLOBAL .*xxx.*\); only a plain") as error:
        checkpoint.convert_official(tmp_path / "a.pt")
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


def test_a_refused_pickle_is_not_said_to_load_otherwise(tmp_path):
    """Torch's own message explains how to run the code all the same."""
    torch.save({"a": shutil.rmtree}, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"refused, .*\(GLOBAL shutil\.rmtree\); only a plain state dict"
    ) as error:
        checkpoint.convert_official(tmp_path / "a.pt")
    assert "weights_only" not in str(error.value) and "safe_globals" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_any_broken_torch_file_is_a_named_error(tmp_path, zipped):
    """Torch raises whatever its parser runs into: AssertionError, IndexError, struct.error, TypeError ..."""
    path, rng = tmp_path / "a.pt", np.random.default_rng(0)
    torch.save({"conv1.weight": torch.zeros(2, 3)}, path, _use_new_zipfile_serialization=zipped)
    good = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(150):
        bad = good.copy()
        bad[rng.integers(0, min(len(bad), 900), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(bad.tobytes())
        with pytest.raises(CheckpointError, match=r"^.*a\.pt: "):
            checkpoint.convert_official(path)


def test_an_archive_that_unpacks_to_more_than_any_weights_is_not_unpacked(tmp_path, monkeypatch):
    torch.save({"conv1.weight": torch.zeros(1 << 20)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as a, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as b:
        for name in a.namelist():
            b.writestr(name, a.read(name))
    assert (tmp_path / "b.pt").stat().st_size < 1 << 15
    monkeypatch.setattr(checkpoint, "LARGEST_WEIGHTS", 1 << 21)
    with pytest.raises(CheckpointError, match=r"b\.pt: 4\d{6} bytes unpacked; an MT-SLVR backbone has at most 2097152"):
        checkpoint.convert_official(tmp_path / "b.pt")


class Large:
    """Pickled as a call that makes 3 GiB."""

    def __reduce__(self):
        return bytearray, (3 << 30,)


def with_two_directories(path, size):
    """An archive of a tensor with `size` bytes of zeros; Python reads the last directory, torch the first."""
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    [data] = [name for name in entries if name.endswith("data/0")]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = squeeze.compress(bytes(1 << 24)) + squeeze.flush(zlib.Z_FULL_FLUSH)  # can be repeated
    entries["large"] = block * (size >> 24) + squeeze.flush()
    small, large = io.BytesIO(), io.BytesIO()
    for buffer in (large, small):
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in entries.items():
                if name not in (data, "large"):
                    archive.writestr(name, content)
            archive.writestr(data, entries["large"] if buffer is large else b"")
            entry = archive.getinfo(data)
            if buffer is large:  # stored as it is and said to be compressed
                entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, size
    large, small = large.getvalue(), small.getvalue()
    ends = [struct.unpack("<4s4H2LH", content[-22:]) for content in (large, small)]
    assert ends[0][5] == ends[1][5]  # both directories have one size
    path.write_bytes(large[:-22] + small[:-22] + struct.pack("<4s4H2LH", *ends[0]))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
@pytest.mark.parametrize("kind", ["pickle", "archive"])
def test_a_small_file_cannot_take_gigabytes(tmp_path, kind):
    path = tmp_path / "a.pt"
    if kind == "pickle":
        torch.save({"a": Large()}, path)
    else:
        with_two_directories(path, (1 << 31) - (1 << 24))  # as large as needs no other format
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is what is there now

    def most():
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

    before = most()
    with pytest.raises(CheckpointError, match=r"a\.pt: "):
        checkpoint.convert_official(path)
    assert most() - before < 1 << 30
    mmap.mmap(-1, 4 << 30).close()  # afterwards the process is as free as before


@pytest.mark.parametrize("odd", [torch.zeros(3).to_sparse(), torch.zeros(3, device="meta")], ids=["sparse", "meta"])
def test_tensors_without_plain_numbers_are_refused(tmp_path, odd):
    torch.save({"conv1.weight": odd}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: holds a dict, expected a state dict of tensors"):
        checkpoint.convert_official(tmp_path / "a.pt")


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


PIN = "pin the new checkpoint with `python tests/models/hub/pin.py`"


def probe():
    """A second of noise and a second of a rising tone, five seconds in all."""
    t = np.arange(80_000) / 16_000
    noise = np.random.default_rng(0).standard_normal(80_000)
    return (np.sin(2 * np.pi * (200 + 300 * t) * t) * (t % 2 < 1) + 0.1 * noise).astype(np.float32)


@pytest.mark.parametrize("name", sorted(registry.bundled()))
def test_embeddings_of_a_released_checkpoint_stay(name):
    """`python tests/models/hub/pin.py` pins a new checkpoint; the pin of a released one never changes."""
    path = PINNED / f"{name}.npz"
    assert path.is_file(), f"{path} is missing: {PIN}"
    with np.load(path, allow_pickle=False) as pinned:
        expected, weights = pinned["embeddings"], str(pinned["sha256"])
    found = checkpoint.sha256(registry.bundled()[name] / checkpoint.WEIGHTS_NAME)
    assert found == weights, f"{name}: other weights than those pinned; give them a new name, or before a release {PIN}"
    embedded = mtslvr.embed(probe(), 16_000, encoder=mtslvr.load(name, device="cpu"))
    assert np.abs(embedded - expected).max() <= 1e-3 * np.abs(expected).max()


def test_every_release_says_what_became_of_the_embeddings():
    root = PACKAGE.parent
    if not (root / "CHANGELOG.md").is_file():
        pytest.skip("installed without its repository")
    _, *releases = re.split(r"(?m)^## \[", (root / "CHANGELOG.md").read_text(encoding="utf-8"))
    said = [re.findall(r"(?ms)^Embeddings: .*?(?=\n\n|\Z)", release) for release in releases]
    without = [release.partition("]")[0] for release, lines in zip(releases, said, strict=True) if len(lines) != 1]
    assert releases and without == [], f"CHANGELOG.md: no line 'Embeddings: ...' for {without}"
    for name in registry.bundled():
        assert any(f"`{name}`" in lines[0] for lines in said), f"CHANGELOG.md: no 'Embeddings: ...' names {name}"
