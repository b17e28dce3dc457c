import pytest

from mtslvr.errors import ConfigError
from mtslvr.run.shards import Shard, from_runs, part_outputs, to_runs

ARRAY = {
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "3",
    "SLURM_ARRAY_TASK_STEP": "1",
    "SLURM_ARRAY_TASK_COUNT": "4",
}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("total", [0, 1, 3, 7, 20])
def test_shards_are_disjoint_together_everything_and_about_equal(count, total):
    shards = [Shard(i, count) for i in range(1, count + 1)]
    taken = [shard.take(range(total)) for shard in shards]
    assert sorted(k for part in taken for k in part) == list(range(total))
    assert {len(part) for part in taken} <= {total // count, -(-total // count)}
    for shard, part in zip(shards, taken, strict=True):
        assert shard.size(total) == len(part)
        assert part == [shard.place(i) for i in range(len(part))] == sorted(part)


def test_text_and_back():
    assert Shard.parse("2/8") == Shard(2, 8) and str(Shard(2, 8)) == "2/8"
    assert Shard.parse("1/1").take("abc") == ["a", "b", "c"]
    assert Shard.parse("8/8").take("abc") == []


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "0/0", "00/2"])
def test_a_shard_outside_its_range(text):
    index, count = map(int, text.split("/"))
    with pytest.raises(ConfigError, match=rf"shard {index}/{count}: no such part; give i/n with i from 1 to n"):
        Shard.parse(text)


@pytest.mark.parametrize("text", ["", "3", "a/b", "1/2/3", "1/", "-1/2", "1.0/2", " 1/2", "1/2\n", "Slurm", "\u0661/2"])
def test_what_is_no_shard_is_named(text):
    with pytest.raises(ConfigError, match="not a part; give i/n") as raised:
        Shard.parse(text)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (3, 4)),
        ({"TASK_MIN": "1", "TASK_MAX": "4"}, (2, 4)),
        ({"TASK_ID": "11", "TASK_MIN": "5", "TASK_MAX": "14", "TASK_STEP": "3"}, (3, 4)),
        ({"TASK_STEP": None, "TASK_MAX": None}, (3, 4)),
    ],
)
def test_the_task_of_an_array(changes, expected):
    found = {**ARRAY, **{f"SLURM_ARRAY_{name}": value for name, value in changes.items()}}
    assert Shard.parse("slurm", {k: v for k, v in found.items() if v is not None}) == Shard(*expected)


def test_an_array_goes_before_a_step_and_a_step_is_taken_without(monkeypatch):
    step = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}
    assert Shard.parse("slurm", step) == Shard(1, 2)
    assert Shard.parse("slurm", {**step, **ARRAY}) == Shard(3, 4)
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert Shard.parse("slurm") == Shard(1, 2)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID is set"),
        ({"SLURM_PROCID": "0"}, "SLURM_NTASKS is not set"),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "2"}, "shard 3/2: no such part"),
        ({"SLURM_PROCID": "one", "SLURM_NTASKS": "2"}, "SLURM_PROCID is 'one', no whole number"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN is not set"),
        ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "3"}, r"task 2 of 3 from 0 to 3 in steps of 1 has holes.*--array=1-3"),
        ({**ARRAY, "SLURM_ARRAY_TASK_STEP": "2"}, "has holes"),
        ({**ARRAY, "SLURM_ARRAY_TASK_STEP": "0"}, "has holes"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "7"}, "has holes"),
    ],
)
def test_variables_of_slurm_that_name_no_shard(environment, message):
    with pytest.raises(ConfigError, match=message):
        Shard.parse("slurm", environment)


@pytest.mark.parametrize(("task", "parts"), [(3, ("3/N", "4/N")), (0, ("0/N", "1/N"))])
def test_one_task_of_an_array_run_again_is_told_how_to_name_its_part(task, parts):
    names = ("TASK_ID", "TASK_MIN", "TASK_MAX")
    array = {**ARRAY, **{f"SLURM_ARRAY_{name}": str(task) for name in names}, "SLURM_ARRAY_TASK_COUNT": "1"}
    with pytest.warns(UserWarning, match="takes every file as part 1 of 1") as told:
        assert Shard.parse("slurm", array) == Shard(1, 1)
    assert all(f"--shard {part}" in str(told[0].message) for part in parts)


def test_outputs_are_named_after_the_whole_and_found_beside_it(tmp_path):
    assert Shard(2, 8).output("some/out.npz") == "some/out-00002-of-00008.npz"
    assert Shard(123456, 200000).output("out") == "out-123456-of-200000"
    names = ["a.b-00001-of-00002.csv", "a.b-00002-of-00002.csv"]
    others = ["a.b.csv", "a.b-00001-of-00002.csv.meta.json", "aXb-00001-of-00002.csv", "a.b-00001-of-00002.npz"]
    for name in [*names, *others]:
        (tmp_path / name).touch()
    assert [path.name for path in part_outputs(tmp_path / "a.b.csv")] == names
    assert part_outputs(tmp_path / "nowhere" / "a.csv") == []


@pytest.mark.parametrize(
    "places", [[], [1], [1, 4, 7], [1, 7, 10], [7, 1, 4, None, None], [None, 1, 4], [None], [4, 1]], ids=str
)
def test_places_survive_being_put_briefly(places):
    runs = to_runs(places, 3)
    assert from_runs(runs, 3) == places
    assert len(to_runs(range(2, 3000, 3), 3)) == 1


def test_the_description_tells_lists_of_files_apart():
    shard = Shard(1, 2)
    described = shard.describe(["a", "b"])
    assert (described["index"], described["count"], described["files"]) == (1, 2, 2)
    digests = {shard.describe(names)["names_sha256"] for names in (["a", "b"], ["b", "a"], ["ab"], ["a", "\udce9"])}
    assert len(digests) == 4 and described["names_sha256"] in digests
