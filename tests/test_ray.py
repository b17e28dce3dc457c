"""AudioEmbedder by itself, which needs no Ray, and in a real Ray on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")

from pyarrow import parquet  # noqa: E402  # after the question whether it is there

import mtslvr  # noqa: E402
from mtslvr.errors import ConfigError  # noqa: E402
from mtslvr.ray import AudioEmbedder  # noqa: E402


@pytest.fixture(scope="module")
def audio(tmp_path_factory, write):
    """Paths of four files, the third of them broken."""
    root = tmp_path_factory.mktemp("audio")
    for name, seconds in (("a.wav", 0.5), ("b.wav", 0.9), ("d.wav", 0.3)):
        write(root / name, seconds)
    (root / "c.wav").write_bytes(b"nothing")
    return [str(root / f"{name}.wav") for name in "abcd"]


def check_embeddings(found, expected):
    """Equal but for the rounding of a window that is encoded alone, 1e-6 of the largest number."""
    np.testing.assert_allclose(np.array(found, np.float32), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_rows_are_those_of_embed_and_windows_without_pooling(model, audio):
    assert "ray" not in sys.modules
    how, good, encoder = {"features": "variant", "layer": "pooled"}, [*audio[:2], audio[3]], mtslvr.load(model)
    embedder, expected = AudioEmbedder(model, batch_size=3, **how), mtslvr.embed(good, encoder=encoder, **how)
    for paths in (np.array(audio), np.array(audio, object)):
        table = embedder({"path": paths, "label": np.arange(4)})
        assert table.column_names == ["path", "label", "embedding", "start", "end", "error"]
        assert table.schema.field("embedding").type == pa.list_(pa.float32(), expected.shape[1])
        columns = table.to_pydict()
        embeddings, errors = columns.pop("embedding"), columns.pop("error")
        check_embeddings([*embeddings[:2], embeddings[3]], expected)
        assert embeddings[2] is None and "c.wav: not an audio file" in errors[2] and errors.count(None) == 3
        assert columns == {"path": audio, "label": [0, 1, 2, 3], "start": [0, 0, None, 0], "end": [0.5, 0.9, None, 0.3]}
    table = AudioEmbedder(model, pool="none", hop_seconds=0.2)({"path": np.array(audio)})
    expected = [mtslvr.embed_windows(path, encoder=encoder, hop_seconds=0.2) for path in good]
    counts = [len(expected[0][0]), len(expected[1][0]), 1, len(expected[2][0])]
    assert table.column("path").to_pylist() == [path for path, n in zip(audio, counts, strict=True) for _ in range(n)]
    assert table.column("error").null_count == sum(counts) - 1
    kept = table.filter(pa.compute.is_null(table.column("error")))
    check_embeddings(kept.column("embedding").to_pylist(), np.concatenate([rows for rows, _ in expected]))
    spans = np.stack([kept.column(name).to_numpy() for name in ("start", "end")], 1)
    np.testing.assert_array_equal(spans, np.concatenate([times for _, times in expected]))


def test_tables_bytes_data_sets_of_hugging_face_and_broken_values(model, audio):
    embedder = AudioEmbedder(model, path_column="sound")
    sound, expected = Path(audio[0]).read_bytes(), mtslvr.embed(audio[0], encoder=model)
    data_set = [{"path": "a.wav", "bytes": sound}, {"path": audio[0], "bytes": None}, {"path": "gone.wav"}]
    for batch, good in (
        (pa.table({"sound": [sound, b"nothing", b""]}), [0]),
        ({"sound": np.array([sound, b"nothing"], object)}, [0]),
        (pa.table({"sound": pa.array([None, audio[0], "gone.wav"])}), [1]),
        (pa.table({"sound": data_set}), [0, 1]),
    ):
        rows = embedder(batch).to_pylist()
        assert [i for i, row in enumerate(rows) if row["error"] is None] == good
        check_embeddings([rows[i]["embedding"] for i in good], [expected] * len(good))
    assert "gone.wav: no such file" in rows[2]["error"]


def test_columns_of_any_rank_are_kept_and_every_batch_has_one_schema(model, audio):
    other = {
        "image": np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4),
        "empty": np.zeros((2, 0, 3)),
        "ragged": np.array([np.ones((1, 2)), np.ones((2, 2))], dtype=object),
    }
    embedder = AudioEmbedder(model, features="invariant")
    table = embedder({"path": np.array([audio[0], audio[3]]), **other})
    for name, values in other.items():
        assert table.column(name).to_pylist() == [value.tolist() for value in values]
    assert str(table.schema.field("image").type) == "list<item: list<item: uint8>>"
    batches = [audio[:1], audio[2:3], []]  # or parts of a data set could not be read together
    one, *others = [embedder(pa.table({"path": pa.array(batch, pa.string())})).schema for batch in batches]
    assert others == [one, one]


def test_wrong_settings_and_columns_are_named(model):
    for settings, batch, told in (
        ({"device": "abacus"}, {}, "device='abacus'"),
        ({"pool": "max"}, {}, "pool='max'"),
        ({}, {"path": ["a.wav"], "label": [1]}, "path_column='file': not among the columns path, label"),
        ({}, {"file": ["a.wav"], "error": [""]}, "column 'error': there already; rename it"),
    ):
        with pytest.raises(ConfigError, match=told):
            AudioEmbedder(model, path_column="file", **settings)({name: np.array(row) for name, row in batch.items()})


@pytest.mark.extra("ray")
def test_ray_writes_parquet_that_reads_without_ray(model, audio, tmp_path, monkeypatch):
    """Ray asks nobody and tells nobody; its workers import this package."""
    import ray.data

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(os.path.dirname(mtslvr.__file__)), prepend=os.pathsep)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = ray.data.from_items([{"path": path} for path in audio], override_num_blocks=4)
        how = {"fn_constructor_args": [model], "batch_size": 2, "compute": ray.data.ActorPoolStrategy(size=1)}
        rows.map_batches(AudioEmbedder, **how).write_parquet(str(tmp_path / "embeddings"))
    finally:
        ray.shutdown()
    code = (
        "import sys; from pyarrow import parquet; t = parquet.read_table(sys.argv[1]); "
        "assert 'ray' not in sys.modules; print(t.schema.field('embedding').type)"
    )
    command = [sys.executable, "-c", code, tmp_path / "embeddings"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fixed_size_list<element: float>[1000]"
    found = parquet.read_table(tmp_path / "embeddings").sort_by("path").to_pylist()
    for row, expected in zip(found, AudioEmbedder(model)({"path": np.array(audio)}).to_pylist(), strict=True):
        embeddings = row.pop("embedding"), expected.pop("embedding")
        assert row == expected
        if embeddings != (None, None):
            check_embeddings(*map(np.array, embeddings))
