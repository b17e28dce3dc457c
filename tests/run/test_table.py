import json
import os

import numpy as np
import pytest

from mtslvr import read_table
from mtslvr.errors import ConfigError
from mtslvr.run.export import export
from mtslvr.run.files import Format, resolve

KEYS = ("embeddings", "paths", "start", "end", "settings")
SETTINGS = {"features": "concat", "window_seconds": 5.0, "nested": {"größe": [1, None]}}


def write(path, n=3):
    embeddings = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
    names, spans = [f"päth/{i} 音\udcff.wav" for i in range(n)], np.arange(2 * n).reshape(n, 2) * 0.1
    rows = ((name, *span, row.tobytes()) for name, span, row in zip(names, spans, embeddings, strict=True))
    export(path, Format(path.suffix[1:]), rows, (n, 4), SETTINGS)
    return embeddings, names, spans


@pytest.mark.parametrize("n", [0, 3])
def test_what_is_written_is_read_and_plain_numpy_reads_it_too(tmp_path, n):
    embeddings, names, spans = write(tmp_path / "out.npz", n)
    back = read_table(tmp_path / "out.npz")
    np.testing.assert_array_equal(back.embeddings, embeddings)
    np.testing.assert_array_equal(np.stack([back.start, back.end], 1), spans)
    assert back.embeddings.dtype == np.float32 and back.start.dtype == back.end.dtype == np.float64
    assert repr(back) == f"EmbeddingTable(embeddings of shape ({n}, 4), {n} files)"
    assert back.paths == tuple(names) and back.settings == SETTINGS and os.listdir(tmp_path) == ["out.npz"]
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert sorted(file) == sorted([*KEYS, "features", "model"])
        assert (file["features"], file["model"]) == ("concat", "")
        assert json.loads(file["settings"].item())["features"] == "concat"


@pytest.mark.extra("recipes")
@pytest.mark.parametrize("n", [3, 0])
def test_frames_of_pandas_and_polars(tmp_path, n):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    embeddings, names, spans = write(tmp_path / "out.npy", n)
    frame = read_table(tmp_path / "out.npy").to_pandas()
    np.testing.assert_array_equal(frame.to_numpy(), embeddings)
    assert list(frame.columns) == [0, 1, 2, 3] and frame.index.names == ["file", "start", "end"]
    if n:
        times = pandas.Timedelta(seconds=0.2), pandas.Timedelta(seconds=0.3)
        assert frame.loc[(names[1].replace("\udcff", "\\xff"), *times)].tolist() == [4, 5, 6, 7]
    frame = read_table(tmp_path / "out.npy").to_polars()
    kinds = [polars.String, polars.Float64, polars.Float64, polars.Array(polars.Float32, 4)]
    assert dict(frame.schema) == dict(zip(["file", "start", "end", "embedding"], kinds, strict=True))
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), embeddings)
    np.testing.assert_array_equal(frame.select("start", "end").to_numpy(), spans)


def test_a_write_that_is_ended_or_meets_a_reader_never_gives_rows_under_the_names_of_others(tmp_path, monkeypatch):
    npz, npy, replace = tmp_path / "out.npz", tmp_path / "out.npy", os.replace

    def end(*paths):
        if paths[1:]:
            replace(*paths)
        raise KeyboardInterrupt  # of an npy before its index is replaced as well

    for out, name in ((npz, "fsync"), (npy, "replace")):
        write(out, 1)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, name, end)
            write(out, 3)
    assert len(read_table(npz).paths) == 1 and not list(tmp_path.glob("*.part"))
    with pytest.raises(ConfigError, match=r"out\.npy: not embeddings \(.*No such file.*out\.npy\.index\.csv"):
        read_table(npy)
    load = np.load

    def load_late(path, **how):
        found = load(path, **how)
        write(path, 3)
        return found

    write(npy, 2)
    monkeypatch.setattr(np, "load", load_late)
    with pytest.raises(ConfigError, match=r"out\.npy: .*replaced by another output while it was read; read it again"):
        read_table(npy)


def test_a_link_stays_a_link_permissions_follow_the_umask_and_other_places_are_refused(tmp_path, monkeypatch):
    link, real, plain = tmp_path / "link.npz", tmp_path / "folder.npz" / "out.npz", tmp_path / "file.txt"
    real.parent.mkdir()
    plain.touch()
    link.symlink_to(real)
    write(resolve(link))
    assert link.is_symlink() and real.is_file() and real.stat().st_mode == plain.stat().st_mode
    for name, told in (("folder.npz", "exists and is not a file"), ("file.txt/out.npz", "folder .* does not exist")):
        with pytest.raises(ConfigError, match=f"^{tmp_path / name}: {told}"):
            resolve(tmp_path / name)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    assert resolve(link, writable=True) == real
    with pytest.raises(ConfigError, match="Permission denied"):
        resolve(tmp_path / "out.npz", writable=True)
    for length, writable in ((226, True), (252, False)):  # an output has files beside it with longer names
        with pytest.raises(ConfigError, match=r"the name is too long, .*; choose a shorter one"):
            resolve(tmp_path / f"{'a' * length}.npz", writable=writable)


WHOLE = {"embeddings": np.ones((2, 3)), "paths": ["a", "a"], "start": [0.0, 1.0], "end": [1.0, 2.0], "settings": "{}"}


def test_reading_something_else(tmp_path):
    file, later = tmp_path / "in.npz", {"format_version": 2, "mtslvr": "9.9", "layer": "new"}
    for content, told in (
        *((content, "") for content in (b"", b"PK\x03\x04 b", b"\x93NUMPY b", b"PAR1 b", b"{broken")),
        (b"file,start,end,e0\na.wav,0,1,2\nb\n.wav,0,1,2", "in.npz, line 3: 1 columns"),  # a name with a line break
        ({"embeddings": np.zeros((1, 2))}, "no 'paths"),
        (dict.fromkeys(KEYS, np.array([{}], dtype=object)), "allow_pickle"),
        ({**WHOLE, "settings": np.zeros(1)}, ""),
        ({**WHOLE, "embeddings": np.ones((2, 3), np.complex64)}, "embeddings of type complex64"),
        ({**WHOLE, "embeddings": np.ones((3, 3))}, r"embeddings \(3, 3\) of 2 rows"),
        ({**WHOLE, "paths": [1, 2]}, r"names \(1,\)"),
        ({**WHOLE, "start": [0.0, np.nan]}, "no time in seconds"),
        ({**WHOLE, "end": [1.0, 0.0]}, "no time in seconds"),
        ({**WHOLE, "settings": '{"layer": "x"}'}, "'x' is not a valid Layer"),
        ({**WHOLE, "settings": '{"hop_seconds": "x"}'}, "its 'hop_seconds' is 'x'"),
        ({**WHOLE, "settings": '{"window_seconds": NaN}'}, "its 'window_seconds' is nan"),
        ({**WHOLE, "settings": '{"encoder": {"frontend": 3}}'}, "its 'frontend' is 3"),
    ):
        file.write_bytes(content) if isinstance(content, bytes) else np.savez(file, **content)
        with pytest.raises(ConfigError, match=rf"in\.npz: not embeddings \(.*{told}.*\); write them with mtslvr-embed"):
            read_table(file)
    np.savez(tmp_path / "later.npz", **{**WHOLE, "settings": json.dumps(later)})
    np.save(tmp_path / "open.npy", np.ones((2, 3)))
    (tmp_path / "open.npy.index.csv").write_text('row,file,start,end\n0,"' + "a" * 140_000)
    for path, told in (
        (tmp_path / "gone.npz", r"gone\.npz: no such file; check the path"),
        (tmp_path, "not embeddings but a folder; embed its files first: mtslvr-embed"),
        (tmp_path / "later.npz", r"later\.npz: written by mtslvr 9\.9 in format 2"),
        (tmp_path / "open.npy", r"open\.npy: not embeddings \(field larger than field limit"),
    ):
        with pytest.raises(ConfigError, match=told):
            read_table(path)
