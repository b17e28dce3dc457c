"""mtslvr-embed --shard and mtslvr merge: the parts are the full run to the last byte."""

import functools
import json
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.embed import embed_command
from mtslvr.cli.main import main
from mtslvr.models import checkpoint, hub
from mtslvr.run import extract
from mtslvr.run.store import read_state
from mtslvr.run.table import read_table

FORMATS = ["npz", "npy", "parquet", "csv", "jsonl"]
GOOD = ["b.wav", "c.wav", "d.wav", "deep/a.wav", "deep/b.wav"]
load_once = functools.cache(hub.load)
SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "SLURM_NTASKS")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    config = mtslvr.EncoderConfig(window_seconds=0.25, spectral_statistics=True)
    return checkpoint.save(mtslvr.Encoder(config), tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "load", load_once)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Five files of other lengths and a broken one between them."""
    root = tmp_path_factory.mktemp("audio")
    (root / "deep").mkdir()
    for seed, (name, seconds) in enumerate(zip(GOOD, (0.5, 0.9, 0.2, 1.3, 0.25), strict=True)):
        write(root / name, seconds, seed)
    (root / "a.wav").write_bytes(b"nothing")
    return root


def write(path, seconds, seed=0):
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000)), 16000)


def embed(*arguments, code=0, **more):
    result = CliRunner().invoke(embed_command, [*map(str, arguments)], **more)
    assert result.exit_code == code, result.output
    return result


def merge(*arguments, code=0):
    result = CliRunner().invoke(main, ["merge", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def contents(output):
    """An output and what lies beside it but its journal, by name."""
    return {
        path.name.replace(output.stem, ""): path.read_bytes()
        for path in output.parent.glob(f"{output.stem}.*")
        if path.is_file()
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("pool", "count"), [("none", 1), ("none", 2), ("none", 3), ("mean", 3), ("none", 9)])
def test_every_format_merges_to_the_bytes_of_the_full_run(audio, model, tmp_path, monkeypatch, form, pool, count):
    # A stand-in for the network, which is slow.
    monkeypatch.setattr(extract, "_encode", lambda encoder, windows, config: windows[:, :1000].copy())
    compare(audio, model, tmp_path, form, pool, count)


@pytest.mark.parametrize("count", [2, 3])
def test_a_window_has_the_same_numbers_whatever_its_shard(audio, model, tmp_path, count):
    compare(audio, model, tmp_path, "npz", "none", count)


def compare(audio, model, tmp_path, form, pool, count):
    """Shards are disjoint, and merge to every byte of the full run."""
    options = [audio, "--model", model, "--pool", pool, "--batch-size", 3, "-q"]
    full, out = tmp_path / f"full.{form}", tmp_path / f"out.{form}"
    embed(*options, "-o", full, code=1)
    names = []
    for i in range(1, count + 1):
        broken = i == 1  # a.wav, the first of the list
        embed(*options, "-o", out, "--shard", f"{i}/{count}", code=int(broken))
        part = tmp_path / f"out-{i:05}-of-{count:05}.{form}"
        assert part.exists() is (i <= 6)
        names += sorted(set(read_table(part).paths)) if part.exists() else []
    assert not out.exists() and sorted(names) == GOOD
    merge(out, "-q")
    found, expected = contents(out), contents(full)
    assert found.keys() == expected.keys() and f".{form}" in found
    assert found == expected
    assert read_table(out).settings["complete"] is True


def test_names_are_those_of_the_full_run(model, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.wav", 0.3)
    options = [tmp_path / "one", tmp_path / "two", "--model", model, "-q"]
    embed(*options, "-o", tmp_path / "out.npz", "--shard", "1/2")
    assert read_table(tmp_path / "out-00001-of-00002.npz").paths == ("one/a.wav",)
    lines = embed(*options, "-o", "-", "--shard", "2/2").stdout.splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["two/a.wav"]
    assert sorted(path.name for path in tmp_path.glob("out*")) == [
        "out-00001-of-00002.npz", "out-00001-of-00002.npz.journal"
    ]  # fmt: skip


def test_a_shard_that_was_stopped_goes_on(audio, model, tmp_path, monkeypatch):
    options = [audio, "-o", tmp_path / "out.npz", "--model", model, "--batch-size", 1, "-q"]
    encode, seen = extract._encode, []

    def interrupting(encoder, windows, config):
        seen.append(len(windows))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return encode(encoder, windows, config)

    embed(*options, "--shard", "1/2", code=1)
    monkeypatch.setattr(extract, "_encode", interrupting)
    embed(*options, "--shard", "2/2", code=130)
    assert read_state(tmp_path / "out-00002-of-00002.npz").complete is None
    refused = merge(tmp_path / "out.npz", code=2).output
    assert "out-00002-of-00002.npz: its run was interrupted; run mtslvr-embed again" in refused
    monkeypatch.setattr(extract, "_encode", encode)
    report = json.loads(embed(*options, "--shard", "2/2", "--json").stdout)
    assert report["shard"] == "2/2" and report["skipped"] == 1 and report["done"] == 2
    merge(tmp_path / "out.npz")
    embed(*options[:1], "-o", tmp_path / "full.npz", *options[3:], code=1)
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "full.npz").read_bytes()


def test_after_a_change_of_the_files_every_shard_is_run_again(model, tmp_path, monkeypatch):
    (tmp_path / "audio").mkdir()
    for i in range(4):
        write(tmp_path / "audio" / f"{i}.wav", 0.3, i)
    out, embedded, encode = tmp_path / "out.npz", [], extract._encode
    monkeypatch.setattr(extract, "_encode", lambda e, rows, c: embedded.append(len(rows)) or encode(e, rows, c))

    def shard(i):
        return embed(tmp_path / "audio", "-o", out, "--model", model, "--shard", f"{i}/2", "--json")

    shard(1), shard(2), merge(out)
    assert sum(embedded) == 4 * 2
    write(tmp_path / "audio" / "4.wav", 0.3, 4)
    shard(1)
    refused = merge(out, "--overwrite", code=2).output
    assert "out-00002-of-00002.npz: shard 2/2 of 4 files, and" in refused and "is shard 1/2 of 5 files" in refused
    assert json.loads(shard(2).stdout)["done"] == 0 and sum(embedded) == 5 * 2  # told of the new list, no more
    merge(out, "--overwrite")
    write(tmp_path / "audio" / "0 first.wav", 0.3, 5)  # every file goes to the other shard
    shard(1), shard(2), merge(out, "--overwrite")
    assert read_table(out).paths == ("0 first.wav", *(f"{i}.wav" for i in range(5)))
    (tmp_path / "audio" / "4.wav").unlink()
    shard(1), shard(2), merge(out, "--overwrite")
    assert sorted(read_table(out).paths) == ["0 first.wav", *(f"{i}.wav" for i in range(5))]  # as a full run keeps it
    embed(tmp_path / "audio", "-o", tmp_path / "full.npz", "--model", model)
    full, found = read_table(tmp_path / "full.npz"), read_table(out)
    assert found.paths[:5] == full.paths
    np.testing.assert_array_equal(found.embeddings[:5], full.embeddings)


def test_missing_inputs_are_told_by_one_shard_each(audio, model, tmp_path):
    options = [audio / "b.wav", "nowhere.wav", "--model", model, "-o", tmp_path / "out.csv"]
    assert "nowhere.wav" in embed(*options, "--shard", "1/2", code=1).output
    empty = embed(*options, "--shard", "2/2")
    assert "nowhere" not in empty.output
    assert f"shard 2/2 has none of the files, {tmp_path}/out-00002-of-00002.csv is not written" in empty.output
    assert "1 files of 1 parts, 1 failed, listed in" in merge(tmp_path / "out.csv").output
    assert "no audio found" in embed(tmp_path, "-o", tmp_path / "y.csv", "--shard", "2/2", code=4).output


def test_slurm_names_the_shard(audio, model, tmp_path):
    options = [audio, "--model", model, "-o", tmp_path / "out.npz", "--dry-run", "--json", "-q"]
    array = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "3"}
    report = json.loads(embed(*options, "--shard", "slurm", env=array).stdout)
    assert (report["shard"], report["done"]) == ("2/3", 2)
    assert report["output"] == str(tmp_path / "out-00002-of-00003.npz")
    assert json.loads(embed(*options).stdout)["shard"] is None


@pytest.mark.parametrize(
    ("shard", "message"),
    [("0/4", "shard 0/4: no such part"), ("5/4", "shard 5/4: no such part"), ("half", "shard 'half': not a part"),
     ("slurm", "neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID is set")],
)  # fmt: skip
def test_a_shard_outside_its_range_is_wrong_usage(audio, tmp_path, shard, message):
    assert message in embed(audio, "-o", tmp_path / "x.npz", "--shard", shard, code=2).output
    assert os.listdir(tmp_path) == []


def test_merging_takes_patterns_formats_and_what_is_there(audio, model, tmp_path):
    (tmp_path / "parts").mkdir()
    for i in (1, 3):
        options = ["--shard", f"{i}/3", "--model", model, "-q"]
        embed(audio, "-o", tmp_path / "parts" / "some.npy", *options, code=int(i == 1))
    out, pattern = tmp_path / "out.parquet", f"{tmp_path}/parts/*.npy"
    assert "shard 2 of 3: missing beside" in merge(out, pattern, code=2).output
    assert "no parts such as out-00001-of-00002.parquet beside it" in merge(out, code=2).output
    told = merge(out, pattern, "--allow-missing").output
    assert f"3 files of 2 parts, 1 failed, listed in {out}.errors.jsonl, 1 shards missing; 3 rows in {out}" in told
    table = read_table(out)
    assert table.settings["complete"] is False and table.settings["format"] == "parquet"
    assert table.paths == ("c.wav", "d.wav", "deep/b.wav")
    assert "exists; choose another name, or replace it with --overwrite" in merge(out, pattern, code=2).output
    shutil.rmtree(tmp_path / "parts")
    assert "*.npy: not embeddings" in merge(out, pattern, "--overwrite", code=2).output


class Card:
    """What a run asks of an encoder on a GPU."""

    config = mtslvr.EncoderConfig(window_seconds=0.25)
    sample_rate = 16000
    device = torch.device("cuda")

    def modules(self):
        return []

    def embedding_dim(self, features, layer):
        return 1000


def test_batches_on_a_gpu_have_one_size(audio, model, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(hub, "load", lambda name, **options: Card())
    monkeypatch.setattr(extract, "_encode", lambda e, rows, c: sizes.append(len(rows)) or rows[:, :1000].copy())
    options = [audio / "b.wav", audio / "deep", "--model", model, "--pool", "none", "-q"]
    embed(*options, "-o", tmp_path / "x.npz", "--batch-size", 4)
    lines = embed(*options, "-o", "-", "--batch-size", 6).stdout.splitlines()
    assert sizes == [4, 4, 4, 6, 6] and len(lines) == 9
    rows = np.array([json.loads(line)["embedding"] for line in lines], np.float32)
    np.testing.assert_array_equal(read_table(tmp_path / "x.npz").embeddings, rows)
