"""mtslvr-embed on generated files: what it writes, what it says, how it exits."""

import json
import os

import numpy as np
import pytest
import soundfile

import mtslvr
from mtslvr.models import checkpoint
from mtslvr.run.table import read_table


def test_a_folder_becomes_one_row_a_file_and_broken_files_are_told(model, embed, load, write, tmp_path):
    folder = tmp_path / "audio"
    write(folder / "a.wav", 0.5)
    write(folder / "b.FLAC", 0.3, rate=44100, channels=2, format="FLAC")
    write(folder / "c.opus", 0.3, rate=48000, format="OGG", subtype="OPUS")
    write(folder / "d.mp3", 0.3)
    write(folder / "deep" / "er" / "a.wav", 0.7, seed=1)
    samples = {"silence": [0] * 8000, "one": [1], "none": [], "nan": [0] * 100 + [np.nan], "inf": [0, np.inf]}
    for name, values in samples.items():
        soundfile.write(folder / f"{name}.wav", np.array(values, float), 16000, subtype="FLOAT")
    (folder / "notes.txt").write_text("no audio, not even by its name")
    (folder / "corrupt.wav").write_bytes(b"RIFF" + bytes(range(200)))
    (folder / "empty.wav").touch()
    out, log = tmp_path / "out.npz", tmp_path / "out.npz.errors.jsonl"
    result = embed(folder, "-o", out, "--batch-size", 3, code=1)
    table = read_table(out)
    assert {*table.paths} == {"a.wav", "b.FLAC", "c.opus", "d.mp3", "silence.wav", "one.wav", "deep/er/a.wav"}
    assert table.embeddings.shape == (7, 1000) and np.isfinite(table.embeddings).all()
    row, alone = table.paths.index("deep/er/a.wav"), mtslvr.embed(folder / "deep" / "er" / "a.wav", encoder=load(model))
    assert (table.start[row], table.end[row]) == (0.0, 0.7)
    np.testing.assert_allclose(table.embeddings[row], alone, rtol=0, atol=1e-5 * np.abs(alone).max())
    skipped = [f"failed {folder}/{name}.wav" for name in ("corrupt", "empty", "none", "nan", "inf")]
    summary = [f"5 of 12 inputs failed, listed in {log}", "7 files embedded, 5 failed, 2.6 s of audio at "]
    for told in (*skipped, "or beyond float32, the first at index 100", "12/12 files", *summary):
        assert told in result.stderr
    assert result.stdout == ""
    assert [json.loads(line)["stage"] for line in log.read_text().splitlines()] == ["decode"] * 5


def test_what_is_wrong_is_named_before_any_work(audio, embed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, code, message in (
        (["--features", "both"], 2, "'both' is not one of"),
        (["--window", "0.01"], 2, "shorter than half an STFT frame"),
        (["--hop", "-1"], 2, "--hop -1: must be"),
        (["--batch-size", "0"], 2, "--batch-size 0: must be"),
        (["-o", "missing/x.npz"], 2, "does not exist"),
        (["-o", "out/"], 2, "out/: the name of a file is expected, with a suffix; end the name in one of .npz"),
        (["-o", "-", "--format", "npz"], 2, "stdout cannot take npz; use --format csv or jsonl"),
        (["@nowhere.txt"], 2, "@nowhere.txt: list cannot be read"),
        (["--model", "no such model"], 3, "'no such model'"),
    ):
        assert message in embed(audio, "-o", "x.npz", *arguments, code=code).stderr
        assert os.listdir() == []


def test_nothing_to_embed(embed, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    out = ["-o", tmp_path / "x.npz"]
    assert "no audio found" in embed(tmp_path / "empty", *out, code=4).stderr
    embed("-", *out, input=b"\n", code=4)
    told = "Error: no audio found: 'nowhere': no such file or folder; check the path\n"
    assert embed("nowhere", *out, code=4).stderr == told
    embed(tmp_path / "bad.wav", *out, code=1)
    assert not (tmp_path / "x.npz").exists()


def test_windows_of_listed_files_and_what_is_missing_of_them(audio, model, embed, load, write, tmp_path):
    out, named, gone = tmp_path / "x.npz", tmp_path / "caf\udce9.wav", tmp_path / "nowhere.wav"
    write(tmp_path / "x.wav", 0.3)
    (tmp_path / "x.wav").rename(named)
    listed = "\r\n".join(map(str, [named, "", gone, audio / "deep", named]))
    (tmp_path / "list.txt").write_bytes(os.fsencode(listed))
    how = ["--pool", "none", "--window", 0.3, "--hop", 0.1, "--features", "invariant", "--batch-size", 2]
    result = embed(f"@{tmp_path}/list.txt", "-o", out, *how, code=1)
    assert f"failed {tmp_path}/list.txt, line 3: '{gone}': no such file" in result.stderr
    assert "named more than once: 1 file;" in result.stderr
    table = read_table(out)
    assert table.paths == ("caf\udce9.wav", "a.wav", "a.wav", "a.wav")
    np.testing.assert_allclose(np.stack([table.start, table.end], 1)[1:], [[0, 0.3], [0.1, 0.4], [0.2, 0.5]])
    more = {"window_seconds": 0.3, "hop_seconds": 0.1, "features": "invariant", "encoder": load(model)}
    windows, _ = mtslvr.embed_windows(audio / "deep" / "a.wav", **more)
    np.testing.assert_allclose(table.embeddings[1:], windows, rtol=0, atol=1e-5 * np.abs(windows).max())
    noted = json.loads((tmp_path / "x.npz.errors.jsonl").read_text())
    assert (noted["file"], noted["stage"]) == (str(gone), "find")


def test_the_summary_as_json_with_what_the_rows_were_made_by_and_a_line_a_file(audio, model, embed, tmp_path):
    result = embed(audio, "-o", tmp_path / "x.csv", "--json", "-v", "--hop", 0.2)
    report, found = json.loads(result.stdout), json.loads((tmp_path / "x.csv.meta.json").read_text())
    assert (report["done"], report["skipped"], report["failed"], report["rows"]) == (3, 0, 0, 3)
    assert report["audio_seconds"] == pytest.approx(1.5) and report["audio_hours"] == pytest.approx(1.5 / 3600)
    assert report["audio_seconds_per_second"] > 0 and report["complete"] is True and report["errors"] is None
    assert found == {**report["settings"], "complete": True} and found["encoder"]["adapter"] == "parallel"
    weights = checkpoint.sha256(model / "model.safetensors")
    assert (found["mtslvr"], found["model"], found["model_sha256"]) == (mtslvr.__version__, str(model), weights)
    assert (found["window_seconds"], found["hop_seconds"], found["pool"]) == (0.25, 0.2, "mean")
    assert weights in result.stderr and "deep/a.wav: 0.5 s, rows 1" in result.stderr
    assert "3 files embedded, 1.5 s of audio at " in result.stderr and "; 3 rows in " in result.stderr
    assert embed(audio / "a.wav", "-o", tmp_path / "y.npz", "-q").output == ""
    assert "1 file embedded" in embed(audio / "a.wav", "-o", tmp_path / "z.npz").stderr


def test_standard_streams_give_paths_and_take_rows_and_parquet_has_lists_of_fixed_size(audio, embed, tmp_path):
    lines = embed(audio, "-o", "-", "--json", "-q")
    rows = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [row["file"] for row in rows] == ["a.wav", "b.wav", "deep/a.wav"]
    assert json.loads(lines.stderr)["rows"] == 3
    names = b"\0".join(os.fsencode(audio / name) for name in ("a.wav", "b.wav", "deep/a.wav"))
    header, *table = embed("-", "-o", "-", "--format", "csv", "-q", input=names).stdout.splitlines()
    assert header.startswith("file,start,end,e0,e1,")
    embed(audio, "-o", tmp_path / "x.npz")
    expected = read_table(tmp_path / "x.npz").embeddings
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], np.float32), expected)
    np.testing.assert_array_equal([list(map(np.float32, row.split(",")[3:])) for row in table], expected)
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'mtslvr[parquet]'")
    embed(audio, "-o", tmp_path / "x.parquet")
    schema = parquet.read_table(tmp_path / "x.parquet").schema
    assert [str(field.type) for field in schema][:3] == ["string", "double", "double"]
    assert schema.field("embedding").type.list_size == 1000
    assert json.loads(schema.metadata[b"mtslvr"])["features"] == "concat"


def test_recordings_that_are_cut_short_lose_content_above_8_khz_or_cannot_be_read_here(
    model, embed, load, write, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", "")  # where no ffmpeg is
    partial = tmp_path / "partial"
    write(partial / "cut.wav", 1.0)
    os.truncate(partial / "cut.wav", 44 + 16000)
    write(partial / "whole.wav", 1.0, rate=96000)
    (partial / "video.mp4").touch()
    out, log, message = tmp_path / "x.npz", tmp_path / "x.npz.errors.jsonl", "0.5 s of the 1.0 s its header says"
    result = embed(partial, "-o", out, "--json")
    assert f"incomplete {partial}/cut.wav: {message}" in result.stderr
    assert "2 files embedded (1 incomplete)" in result.stderr
    assert "1 file with sound above 8 kHz, which the encoder does not hear" in result.stderr
    assert "1 file left out: 1 .mp4; install ffmpeg to read them" in result.stderr
    report, noted = json.loads(result.stdout), log.read_text()
    assert json.loads(noted) == {"file": f"{partial}/cut.wav", "stage": "warning", "message": message}
    assert (report["incomplete"], report["above_half"], report["failed"]) == (1, 1, 0)
    assert report["errors"] == str(log)
    embed(partial, "-o", out)  # of what is there already the log still tells
    assert log.read_text() == noted
    for out in (tmp_path / "y.npz", "-"):
        result = embed(partial, "-o", out, "--on-truncated", "error", code=1)
        assert f"failed {partial}/cut.wav: {message}; repair it" in result.stderr
    assert read_table(tmp_path / "y.npz").paths == ("whole.wav",)
    with pytest.warns(UserWarning, match=f"cut.wav: {message}; what is there is embedded"):
        assert np.isfinite(mtslvr.embed(partial / "cut.wav", encoder=load(model))).all()
