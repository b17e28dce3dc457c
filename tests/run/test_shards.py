import itertools
import json
import re

import numpy as np
import pytest

from mtslvr.config import EncoderConfig
from mtslvr.errors import ConfigError
from mtslvr.run.export import export
from mtslvr.run.files import Format
from mtslvr.run.recorder import Recorder
from mtslvr.run.shards import Shard, merge, part_outputs
from mtslvr.run.table import read_table

ARRAY = {"ARRAY_TASK_ID": "2", "ARRAY_TASK_MIN": "0", "ARRAY_TASK_COUNT": "4"}
NAMES = ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav"]
SETTINGS = {"features": "concat", "model": "m", "model_sha256": "0" * 64, "encoder": EncoderConfig().to_dict()}


def test_shards_are_disjoint_together_everything_and_about_equal():
    for count, total in ((3, 7), (30, 7), (3, 0)):
        shards = [Shard.parse(f"{i}/{count}") for i in range(1, count + 1)]
        taken = [shard.take(range(total)) for shard in shards]
        assert sorted(itertools.chain(*taken)) == list(range(total))
        assert {len(part) for part in taken} <= {total // count, -(-total // count)}
        for shard, part in zip(shards, taken, strict=True):
            assert part == [shard.place(i) for i in range(len(part))] == sorted(part)
    for text in ("0/2", "3/2", "1", " 1/2", "SLURM"):
        with pytest.raises(ConfigError, match="give i/n with i from 1 to n, such as 2/8, or slurm inside a Slurm job"):
            Shard.parse(text)


def test_the_task_of_an_array_or_else_of_srun(monkeypatch):
    for variables, found in (
        (ARRAY, "3/4"),
        ({**ARRAY, "ARRAY_TASK_MIN": "1"}, "2/4"),
        ({"PROCID": "0", "NTASKS": "2"}, "1/2"),
        ({}, "neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID is set .*; start it with sbatch --array or srun"),
        ({"PROCID": "one", "NTASKS": "2"}, "is set with what belongs to it .*'one'"),
        ({**ARRAY, "ARRAY_TASK_COUNT": "2"}, "task 2 of 2 from 0 on: the array has holes; .*--array=1-2"),
        ({**ARRAY, "ARRAY_TASK_MIN": "2", "ARRAY_TASK_COUNT": "1"}, "array of one task .* --shard 2/8"),
    ):
        for name in (*ARRAY, "PROCID", "NTASKS"):
            monkeypatch.delenv(f"SLURM_{name}", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        if found[1] == "/":
            assert str(Shard.parse("slurm")) == found
        else:
            with pytest.raises(ConfigError, match=found):
                Shard.parse("slurm")


def test_outputs_are_named_after_the_whole_and_found_beside_it(tmp_path):
    assert Shard(2, 8).output("some/out.npz") == "some/out-00002-of-00008.npz"
    names = ["a.b-00001-of-00002.csv", "a.b-00002-of-00002.csv"]
    others = ["a.b.csv", "a.b-00001-of-00002.csv.meta.json", "aXb-00001-of-00002.csv", "a.b-00001-of-00002.npz"]
    for name in [*names, *others]:
        (tmp_path / name).touch()
    assert [path.name for path in part_outputs(tmp_path / "a.b.csv")] == names
    assert part_outputs(tmp_path / "nowhere" / "a.csv") == []


def part(folder, index, count, names=NAMES, form="npz", *, rows=(1, 1, 1, 1, 1, 1), missing=(), **changes):
    """The output of a shard; row i of file k is 10 k + i."""
    shard = Shard(index, count)
    values = [(names[k], 10 * k + i) for k in shard.take(range(len(names))) for i in range(rows[k])]
    described = {**shard.describe(names), "missing": list(missing)}
    path = folder / f"out-{index:05}-of-{count:05}.{form}"
    stored = ((name, value, value + 1, np.float32([value, -value]).tobytes()) for name, value in values)
    settings = {**SETTINGS, "format": form, "shard": described, "complete": True, **changes}
    export(path, Format(form), stored, (len(values), 2), settings)
    return path


def refused(folder, parts, message):
    with pytest.raises(ConfigError, match=message):
        merge(folder / "out.npz", parts)
    assert not (folder / "out.npz").exists()


def test_files_that_are_no_inputs_come_last_and_once(tmp_path):
    first, second = part(tmp_path, 1, 2, missing=[2]), part(tmp_path, 2, 2)  # e.wav is no input any more
    merge(tmp_path / "out.npz", [first, second])
    assert read_table(tmp_path / "out.npz").paths == ("a.wav", "b.wav", "d.wav", "c.wav", "e.wav")
    shard = read_table(second).settings["shard"]
    moved = part(tmp_path, 2, 2, names=["x", "e.wav", "y", "d.wav", "z"], shard=shard)
    merge(tmp_path / "out.npz", [first, moved], overwrite=True)
    table = read_table(tmp_path / "out.npz")
    assert table.paths == ("a.wav", "e.wav", "d.wav", "c.wav") and table.start.tolist() == [0, 10, 30, 20]


def test_parts_that_do_not_belong_together(tmp_path):
    one, two, copy = part(tmp_path, 1, 2), part(tmp_path, 2, 2), tmp_path / "copy.npz"
    copy.write_bytes(two.read_bytes())
    refused(tmp_path, [one, two, copy], re.escape(f"{copy}: shard 2/2, which {two} is already; name it once"))
    other = part(tmp_path, 2, 2, features="variant")
    refused(tmp_path, [one, other], f"^{other}: not made as {one}, with features 'concat', here 'variant'; merge them")
    for names in ([*NAMES, "f.wav"], [*NAMES[:4], "E.wav"], [*NAMES[:4], "\udce9"], NAMES[::-1]):
        said = rf"shard 2/2 of {len(names)} files, and .* of 5 files, of another .* or list of"
        refused(tmp_path, [one, part(tmp_path, 2, 2, names=names)], said)
    refused(tmp_path, [one, part(tmp_path, 2, 3)], "shard 2/3 of 5 files, .*, of another number of parts")
    none = "not the output of a shard; write parts with mtslvr-embed --shard i/n"
    refused(tmp_path, [part(tmp_path, 1, 1, shard=None)], none)
    text = part(tmp_path, 1, 1, form="csv")
    text.with_name(f"{text.name}.meta.json").unlink()
    refused(tmp_path, [text], r"not the output of a shard \(out-00001-of-00001\.csv\.meta\.json is not beside it\)")
    for shard in ({"missing": None}, {"files": 9}, {"index": 9}, {"count": "2"}):
        settings = {**Shard(1, 1).describe(NAMES), "missing": [], **shard}
        refused(tmp_path, [part(tmp_path, 1, 1, shard=settings)], "its rows are not those that its settings speak of")


def test_parts_that_are_missing_without_files_interrupted_or_without_rows_and_their_logs(tmp_path):
    parts, out = tmp_path / "parts", tmp_path / "out.npz"
    parts.mkdir()
    others = [part(parts, i, 7) for i in (1, 2, 4, 5)]
    refused(tmp_path, others, "shard 3 of 7: missing")  # 6 and 7 have no files, and are not
    broken = part(parts, 3, 7, rows=[1, 1, 0, 1, 1], missing=[2])
    log = "".join(json.dumps({"file": "-", "stage": stage, "message": "-"}) + "\n" for stage in ("warning", "decode"))
    (parts / f"{broken.name}.errors.jsonl").write_text(log)
    merged = merge(out, [*others, broken])
    assert (merged.failed, merged.missing, merged.files) == (1, [], 4)
    assert read_table(out).settings["complete"] is True and (tmp_path / "out.npz.errors.jsonl").read_text() == log
    merged = merge(out, others, allow_missing=True, overwrite=True)
    assert (merged.missing, merged.failed) == ([3], 0) and not (tmp_path / "out.npz.errors.jsonl").exists()
    half, out = part(parts, 1, 2, complete=False), tmp_path / "half.npz"
    refused(parts, [half], "its run was interrupted; run mtslvr-embed again with the same --shard")
    assert merge(out, [half], allow_missing=True).rows == 3 and read_table(out).settings["complete"] is False
    for form in Format:
        empty = part(parts, 1, 1, form=form.value, rows=[0] * 5, missing=range(5))
        assert len(read_table(empty).embeddings) == 0
        refused(parts, [empty], "not written, for none of the parts has a row")


def test_merging_waits_for_no_run_and_deletes_nothing_of_one(tmp_path):
    one, out = part(tmp_path, 1, 1), tmp_path / "out.npz"
    with Recorder(out, {**SETTINGS, "format": "npz", "pool": "mean"}, 2) as recorder:
        refused(tmp_path, [one], "another run is writing it")
        recorder.begin()
    refused(tmp_path, [one], r"begun by a run of mtslvr-embed that left out\.npz\.journal; .* with --overwrite")
    assert merge(out, [one], overwrite=True).rows == 5
    assert not (tmp_path / "out.npz.journal").exists()
