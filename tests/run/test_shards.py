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


@pytest.fixture
def slurm(monkeypatch):
    """Sets the variables of Slurm, and unsets those that are None."""
    for name in (*ARRAY, "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)

    def set_all(environment):
        for name, value in environment.items():
            if value is not None:
                monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(("count", "total"), [(1, 7), (3, 7), (30, 7), (3, 0)])
def test_shards_are_disjoint_together_everything_and_about_equal(count, total):
    assert str(Shard.parse(f"1/{count}")) == f"1/{count}"
    shards = [Shard(i, count) for i in range(1, count + 1)]
    taken = [shard.take(range(total)) for shard in shards]
    assert sorted(k for part in taken for k in part) == list(range(total))
    assert {len(part) for part in taken} <= {total // count, -(-total // count)}
    for shard, part in zip(shards, taken, strict=True):
        assert part == [shard.place(i) for i in range(len(part))] == sorted(part)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", " 1/2", "SLURM"])
def test_what_is_no_part(text):
    with pytest.raises(ConfigError, match="give i/n with i from 1 to n, such as 2/8, or slurm inside a Slurm job"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (3, 4)),
        ({"TASK_MIN": "1", "TASK_MAX": "4"}, (2, 4)),
        ({"TASK_ID": "11", "TASK_MIN": "5", "TASK_MAX": "14", "TASK_STEP": "3"}, (3, 4)),
        ({"TASK_STEP": None, "TASK_MAX": None}, (3, 4)),
    ],
)
def test_the_task_of_an_array(slurm, changes, expected):
    slurm({**ARRAY, **{f"SLURM_ARRAY_{name}": value for name, value in changes.items()}})
    assert Shard.parse("slurm") == Shard(*expected)


def test_without_an_array_the_step_of_srun_is_taken(slurm):
    slurm({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"})
    assert Shard.parse("slurm") == Shard(1, 2)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID is set"),
        ({"SLURM_PROCID": "0"}, "SLURM_NTASKS is not set"),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "2"}, "shard 3/2: no such part"),
        ({"SLURM_PROCID": "one", "SLURM_NTASKS": "2"}, "SLURM_PROCID is 'one', no whole number"),
        ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "3"}, r"task 2 of 3 from 0 to 3 in steps of 1 has holes.*--array=1-3"),
        ({**ARRAY, "SLURM_ARRAY_TASK_STEP": "2"}, "has holes"),
    ],
)
def test_variables_of_slurm_that_name_no_shard(slurm, environment, message):
    slurm(environment)
    with pytest.raises(ConfigError, match=message):
        Shard.parse("slurm")


def test_one_task_of_an_array_run_again_is_told_how_to_name_its_part(slurm):
    slurm({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "1"})
    with pytest.warns(UserWarning, match="takes every file as part 1 of 1.*--shard 3/N .* --shard 4/N"):
        assert Shard.parse("slurm") == Shard(1, 1)


def test_outputs_are_named_after_the_whole_and_found_beside_it(tmp_path):
    assert Shard(2, 8).output("some/out.npz") == "some/out-00002-of-00008.npz"
    names = ["a.b-00001-of-00002.csv", "a.b-00002-of-00002.csv"]
    others = ["a.b.csv", "a.b-00001-of-00002.csv.meta.json", "aXb-00001-of-00002.csv", "a.b-00001-of-00002.npz"]
    for name in [*names, *others]:
        (tmp_path / name).touch()
    assert [path.name for path in part_outputs(tmp_path / "a.b.csv")] == names
    assert part_outputs(tmp_path / "nowhere" / "a.csv") == []


@pytest.mark.parametrize("places", [[], [1, 4, 7], [7, 1, 4, None, None], [None, 1, 4], [4, 1]], ids=str)
def test_places_survive_being_put_briefly(places):
    assert from_runs(to_runs(places, 3), 3) == places
    assert len(to_runs(range(2, 3000, 3), 3)) == 1


def test_the_description_tells_lists_of_files_apart():
    described = [Shard(1, 2).describe(names) for names in (["a", "b"], ["b", "a"], ["ab"], ["a", "\udce9"])]
    assert len({each["names_sha256"] for each in described}) == 4
    assert {key: described[0][key] for key in ("index", "count", "files")} == {"index": 1, "count": 2, "files": 2}
