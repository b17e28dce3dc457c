import pytest

from mtslvr.errors import ConfigError
from mtslvr.run.shards import Shard, part_outputs

ARRAY = {"ARRAY_TASK_ID": "2", "ARRAY_TASK_MIN": "0", "ARRAY_TASK_STEP": "1", "ARRAY_TASK_COUNT": "4"}


@pytest.fixture
def slurm(monkeypatch):
    """The shard of a job that has these variables of Slurm alone."""

    def parse(variables):
        for name in (*ARRAY, "PROCID", "NTASKS"):
            monkeypatch.delenv(f"SLURM_{name}", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        return Shard.parse("slurm")

    return parse


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
    ("variables", "expected"),
    [
        (ARRAY, (3, 4)),
        ({**ARRAY, "ARRAY_TASK_MIN": "1"}, (2, 4)),
        ({**ARRAY, "ARRAY_TASK_ID": "11", "ARRAY_TASK_MIN": "5", "ARRAY_TASK_STEP": "3"}, (3, 4)),
        ({"PROCID": "0", "NTASKS": "2"}, (1, 2)),
    ],
)
def test_the_task_of_an_array_or_else_of_srun(slurm, variables, expected):
    assert slurm(variables) == Shard(*expected)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID is set .*; start it with sbatch --array or srun"),
        ({"PROCID": "one", "NTASKS": "2"}, "is set with what belongs to it .*'one'"),
        ({**ARRAY, "ARRAY_TASK_COUNT": "2"}, "task 3 of 2: the array has holes; .*--array=1-2"),
        ({**ARRAY, "ARRAY_TASK_ID": "1", "ARRAY_TASK_STEP": "2"}, "has holes"),
        ({**ARRAY, "ARRAY_TASK_MIN": "2", "ARRAY_TASK_COUNT": "1"}, "array of one task .* --shard 2/8"),
    ],
)
def test_variables_of_slurm_that_name_no_shard(slurm, variables, message):
    with pytest.raises(ConfigError, match=message):
        slurm(variables)


def test_outputs_are_named_after_the_whole_and_found_beside_it(tmp_path):
    assert Shard(2, 8).output("some/out.npz") == "some/out-00002-of-00008.npz"
    names = ["a.b-00001-of-00002.csv", "a.b-00002-of-00002.csv"]
    others = ["a.b.csv", "a.b-00001-of-00002.csv.meta.json", "aXb-00001-of-00002.csv", "a.b-00001-of-00002.npz"]
    for name in [*names, *others]:
        (tmp_path / name).touch()
    assert [path.name for path in part_outputs(tmp_path / "a.b.csv")] == names
    assert part_outputs(tmp_path / "nowhere" / "a.csv") == []


def test_the_description_tells_lists_of_files_apart():
    described = [Shard(1, 2).describe(names) for names in (["a", "b"], ["b", "a"], ["ab"], ["a", "\udce9"])]
    assert len({each["names_sha256"] for each in described}) == 4
    assert {key: described[0][key] for key in ("index", "count", "files")} == {"index": 1, "count": 2, "files": 2}
