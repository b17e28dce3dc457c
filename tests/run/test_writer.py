import json
import os
import zipfile

import numpy as np
import pytest

from mtslvr.errors import ConfigError
from mtslvr.run.export import write_npz
from mtslvr.run.files import check_output
from mtslvr.run.recorder import Recorder
from mtslvr.run.table import KEYS, read_table

needs_permissions = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user"
)


def table(n=3, d=4, **changes):
    return {
        "embeddings": np.arange(n * d, dtype=np.float32).reshape(n, d),
        "paths": [f"päth/{i} 音\udcff.wav" for i in range(n)],
        "start": np.arange(n) * 0.1,
        "end": np.arange(n) * 0.1 + 5,
        "settings": {"features": "concat", "window_seconds": 5.0, "nested": {"größe": [1, None]}},
        **changes,
    }


@pytest.mark.parametrize("n", [0, 1, 3])
def test_round_trip(tmp_path, n):
    path = tmp_path / "out.npz"
    write_npz(path, **table(n))
    back = read_table(path)
    np.testing.assert_array_equal(back.embeddings, table(n)["embeddings"])
    assert back.embeddings.dtype == np.float32 and back.start.dtype == back.end.dtype == np.float64
    assert back.paths == tuple(table(n)["paths"])
    np.testing.assert_array_equal(back.start, table(n)["start"])
    np.testing.assert_array_equal(back.end, table(n)["end"])
    assert back.settings == table()["settings"]
    assert os.listdir(tmp_path) == ["out.npz"]


def test_plain_numpy_reads_it_without_pickle(tmp_path):
    write_npz(tmp_path / "out.npz", **table())
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert sorted(file) == sorted([*KEYS, "features", "model"])
        assert (file["features"], file["model"]) == ("concat", "")
        assert file["paths"].dtype.kind == file["settings"].dtype.kind == "U"
        assert json.loads(file["settings"].item())["features"] == "concat"


def test_float64_is_stored_as_float32(tmp_path):
    write_npz(tmp_path / "out.npz", **table(embeddings=np.ones((3, 4))))
    assert read_table(tmp_path / "out.npz").embeddings.dtype == np.float32


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.npz"
    write_npz(path, **table(1))

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"out\.npz: cannot be written \(No space left on device\); choose"):
        write_npz(path, **table(3))
    assert len(read_table(path).paths) == 1
    assert os.listdir(tmp_path) == ["out.npz"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(file):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_npz(tmp_path / "out.npz", **table())
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.npz"
    link.symlink_to(tmp_path / "real" / "out.npz")
    write_npz(link, **table())
    assert link.is_symlink() and (tmp_path / "real" / "out.npz").is_file()


def test_permissions_follow_the_umask(tmp_path):
    (tmp_path / "plain").touch()
    write_npz(tmp_path / "out.npz", **table())
    assert (tmp_path / "out.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("relative", [False, True])
def test_check_output_leaves_no_trace(tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    target = check_output("out.npz" if relative else tmp_path / "out.npz")
    assert target == (tmp_path / "out.npz").resolve()
    assert os.listdir(tmp_path) == []


def test_check_output_keeps_an_existing_file(tmp_path):
    (tmp_path / "out.NPZ").write_bytes(b"old")
    check_output(tmp_path / "out.NPZ")
    assert (tmp_path / "out.NPZ").read_bytes() == b"old"


@pytest.mark.parametrize("write", [check_output, lambda path: write_npz(path, **table())])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/out.npz", r"missing.* does not exist; make it"),
        ("out.xlsx", r"unknown format '\.xlsx'; end the name in one of \.npz, \.npy, \.parquet, \.csv, \.jsonl, or"),
        ("out", r"unknown format ''"),
        ("folder.npz", "exists and is not a file"),
        ("file.txt/out.npz", "does not exist"),
    ],
)
def test_bad_targets(tmp_path, write, name, message):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file.txt").touch()
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ConfigError, match=message) as caught:
        write(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_the_longest_path(tmp_path):
    settings, folder = {"format": "npz", "pool": "mean"}, tmp_path
    while len(os.fsencode(folder)) < 450:
        folder /= "d" * min(100, 469 - len(os.fsencode(folder)) - 1)
    folder.mkdir(parents=True)
    longest = next(n for n in range(1, 100) if len(os.fsencode(folder / f"{'x' * n}.npz.journal/state.sqlite")) == 500)
    target = check_output(folder / f"{'x' * longest}.npz")
    with Recorder(target, settings, 4) as recorder:
        recorder.begin()
        recorder.commit()
    with pytest.raises(
        ConfigError, match="1 bytes too long for the database beside it; choose a folder with a shorter"
    ):
        check_output(folder / f"{'x' * (longest + 1)}.npz")


@needs_permissions
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="Permission denied"):
            check_output(tmp_path / "out.npz")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": ["a"]},
        {"start": np.zeros(2)},
        {"end": np.zeros((3, 1))},
        {"embeddings": np.zeros(3)},
        {"settings": {"x": object()}},
        {"settings": {"x": np.zeros(2)}},
    ],
)
def test_bad_tables_write_nothing(tmp_path, changes):
    with pytest.raises(ConfigError):
        write_npz(tmp_path / "out.npz", **table(**changes))
    assert os.listdir(tmp_path) == []


def save(path, **arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def save_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def write_other_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "a")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a zip"),
        lambda path: path.write_bytes(b"PK\x03\x04 broken"),
        write_other_zip,
        lambda path: save(path, embeddings=np.zeros((1, 2))),
        lambda path: save(path, **{key: np.array([{}], dtype=object) for key in KEYS}),
        lambda path: save(path, **{key: np.zeros(1) for key in KEYS}),
        save_array,
        lambda path: path.mkdir(),
    ],
    ids=["missing", "empty", "text", "broken", "zip", "keys", "pickle", "settings", "npy", "folder"],
)
def test_reading_something_else(tmp_path, make):
    make(tmp_path / "in.npz")
    with pytest.raises(ConfigError, match=r"in\.npz: not an npz of embeddings .*; write one with"):
        read_table(tmp_path / "in.npz")
