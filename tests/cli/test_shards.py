"""mtslvr-embed --shard and mtslvr merge: the parts are the full run to the last byte."""

import json
import shutil

import pytest

from mtslvr.cli.summary import Progress
from mtslvr.run.table import read_table

GOOD = ["b.wav", "c.wav", "d.wav", "deep/a.wav", "deep/b\\xe9\udce9.wav"]


@pytest.fixture(scope="module")
def audio(tmp_path_factory, write):
    """Five files of other lengths, one with bytes in its name that are not UTF-8, and a broken one between them."""
    root = tmp_path_factory.mktemp("audio")
    for seed, (name, seconds) in enumerate(zip(GOOD, (0.5, 0.9, 0.2, 1.3, 0.25), strict=True)):
        write(root / "deep" / "new.wav", seconds, seed)
        (root / "deep" / "new.wav").rename(root / name)
    (root / "a.wav").write_bytes(b"nothing")
    return root


@pytest.fixture
def merge(run):
    """What `mtslvr merge` says."""
    return lambda *arguments, **more: run("merge", *arguments, **more).stderr


def contents(output):
    """An output and what lies beside it but its journal, by name."""
    found = (path for path in output.parent.glob(f"{output.stem}.*") if path.is_file())
    return {path.name.replace(output.stem, ""): path.read_bytes() for path in found}


@pytest.mark.parametrize(
    ("form", "pool", "count"),
    [("npz", "none", 2), ("npy", "none", 2), ("parquet", "none", 2), ("csv", "none", 1), ("jsonl", "mean", 9)],
)
def test_shards_are_disjoint_and_merge_to_every_byte_of_the_full_run(audio, embed, merge, tmp_path, form, pool, count):
    options = [audio, "--pool", pool, "--batch-size", 3, "-q"]
    full, out = tmp_path / f"full.{form}", tmp_path / f"out.{form}"
    embed(*options, "-o", full, code=1)
    names = []
    for i in range(1, count + 1):
        embed(*options, "-o", out, "--shard", f"{i}/{count}", code=int(i == 1))  # which has a.wav, the broken one
        part = tmp_path / f"out-{i:05}-of-{count:05}.{form}"
        assert part.exists() is (i <= 6)
        names += sorted(set(read_table(part).paths)) if part.exists() else []
    assert not out.exists() and sorted(names) == GOOD
    merge(out, "-q")
    assert contents(out) == contents(full) and f".{form}" in contents(out)
    assert read_table(out).settings["complete"] is True


def test_names_are_those_of_the_full_run_and_slurm_names_the_shard(embed, write, tmp_path):
    for folder in ("one", "two"):
        write(tmp_path / folder / "a.wav", 0.3)
    options = [tmp_path / "one", tmp_path / "two", "-q", "--shard"]
    embed(*options, "1/2", "-o", tmp_path / "out.npz")
    assert read_table(tmp_path / "out-00001-of-00002.npz").paths == ("one/a.wav",)
    lines = embed(*options, "2/2", "-o", "-").stdout.splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["two/a.wav"]
    array = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "3"}
    result = embed(*options, "slurm", "-o", tmp_path / "out.npz", "--dry-run", "--json", env=array)
    report, output = json.loads(result.stdout), str(tmp_path / "out-00002-of-00003.npz")
    assert (report["shard"], report["done"], report["output"]) == ("2/3", 1, output)


def test_a_shard_that_was_stopped_goes_on(audio, embed, merge, tmp_path, monkeypatch):
    options, out = [audio, "--batch-size", 1, "-q", "-o"], tmp_path / "out.npz"
    advance, left = Progress.advance, iter([None] * 3)

    def interrupting(self, step):
        advance(self, step)
        if next(left, step):
            raise KeyboardInterrupt

    embed(*options, out, "--shard", "1/2", code=1)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", interrupting)
        stopped = embed(*options, out, "--shard", "2/2", code=130).stderr
    assert "interrupted; 1 of 3 files in " in stopped and "; the same command goes on from there" in stopped
    merge(out, code=2)
    report = json.loads(embed(*options, out, "--shard", "2/2", "--json").stdout)
    assert (report["shard"], report["skipped"], report["done"]) == ("2/2", 1, 2)
    merge(out)
    embed(*options, tmp_path / "full.npz", code=1)
    assert out.read_bytes() == (tmp_path / "full.npz").read_bytes()


def test_after_a_change_of_the_files_every_shard_is_run_again(embed, merge, write, tmp_path):
    folder, out = tmp_path / "audio", tmp_path / "out.npz"
    for i in range(4):
        write(folder / f"{i}.wav", 0.3, i)

    def shard(i):
        """How many files it embeds."""
        return json.loads(embed(folder, "-o", out, "--shard", f"{i}/2", "--json").stdout)["done"]

    assert (shard(1), shard(2)) == (2, 2) and merge(out)
    write(folder / "4.wav", 0.3, 4)
    assert shard(1) == 1
    refused = merge(out, "--overwrite", code=2)
    assert "out-00002-of-00002.npz: shard 2/2 of 4 files, and" in refused and "is shard 1/2 of 5 files" in refused
    assert shard(2) == 0  # told of the new list, no more
    write(folder / "0 first.wav", 0.3, 5)  # every file goes to the other shard
    (folder / "0.wav").unlink()
    shard(1), shard(2), merge(out, "--overwrite")
    assert read_table(out).paths == ("0 first.wav", "1.wav", "2.wav", "3.wav", "4.wav", "0.wav")  # as a full run does


def test_missing_inputs_are_told_by_one_shard_each(audio, embed, merge, tmp_path):
    options = [audio / "b.wav", "nowhere.wav", "-o", tmp_path / "out.csv"]
    assert "nowhere.wav" in embed(*options, "--shard", "1/2", code=1).stderr
    empty = embed(*options, "--shard", "2/2").stderr
    assert "nowhere" not in empty
    assert f"shard 2/2 has none of the files, {tmp_path}/out-00002-of-00002.csv is not written" in empty
    assert "1 file of 1 part, 1 failed, listed in" in merge(tmp_path / "out.csv")


def test_merging_takes_patterns_formats_and_what_is_there(audio, embed, merge, tmp_path):
    (tmp_path / "parts").mkdir()
    for i in (1, 3):
        embed(audio, "-o", tmp_path / "parts" / "some.npy", "--shard", f"{i}/3", "-q", code=int(i == 1))
    out, pattern = tmp_path / "out.csv", f"{tmp_path}/parts/*.npy"
    assert "shard 2 of 3: missing beside" in merge(out, pattern, code=2)
    assert "no parts such as out-00001-of-00002.csv beside it" in merge(out, code=2)
    told = merge(out, pattern, "--allow-missing")
    assert f"3 files of 2 parts, 1 failed, listed in {out}.errors.jsonl, 1 shard missing; 3 rows in {out}" in told
    table = read_table(out)
    assert table.settings["complete"] is False and table.settings["format"] == "csv"
    assert table.paths == ("c.wav", "d.wav", GOOD[-1])
    assert "exists; choose another name, or replace it with --overwrite" in merge(out, pattern, code=2)
    first, *others = sorted((tmp_path / "parts").glob("*.npy"))
    assert "a part itself, which would" in merge(first, *others, "--allow-missing", "--overwrite", code=2)
    assert "does not exist; make it with mkdir -p" in merge(tmp_path / "no" / "x.npz", pattern, code=2)
    shutil.rmtree(tmp_path / "parts")
    assert "*.npy: no such file; check the path" in merge(out, pattern, "--overwrite", code=2)
