"""Runs that are killed, interrupted, changed and repeated, with a stand-in for the encoder: no weights, no torch."""

import itertools
import json
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch

from mtslvr import extract, job
from mtslvr.audio import find_audio
from mtslvr.config import EncoderConfig
from mtslvr.errors import ConfigError
from mtslvr.extract import ExtractConfig
from mtslvr.windows import Pool
from mtslvr.writer import Recorder, files, read_state, read_table
from mtslvr.writer.rows import GrowingArray

SECONDS = {"a.wav": 0.1, "b/a.wav": 0.75, "b/c.wav": 0.2, "d.wav": 0.05, "e.wav": 0.42}
WINDOWS = sum(int(np.ceil(round(seconds / 0.1, 6))) for seconds in SECONDS.values())


class Stub:
    """What extraction asks of an encoder."""

    config = EncoderConfig(window_seconds=0.1)
    sample_rate = 16000
    device, engine = torch.device("cpu"), None

    def embedding_dim(self, features=None, layer=None):
        return 4


class Killed(BaseException):
    """The end of the process, as far as a test can have it."""


@pytest.fixture
def encoded(monkeypatch):
    """Every window that is encoded, by its first sample; embeddings depend on the batch, as on real machines."""
    seen = []

    def encode(encoder, windows, config):
        seen.extend(windows[:, 0].tolist())
        return np.stack([windows[:, 0], windows[:, 9], windows.mean(axis=1), windows.sum() + windows[:, 3]], 1)

    monkeypatch.setattr(extract, "_encode", encode)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # slow, and no test cuts the power
    return seen


@pytest.fixture
def audio(tmp_path):
    root = tmp_path / "audio"
    for seed, (name, seconds) in enumerate(SECONDS.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write(root / name, seconds, seed)
    return root


def write(path, seconds, seed):
    samples = np.random.default_rng(seed).standard_normal(int(seconds * 16000)) * 0.1
    soundfile.write(path, samples, 16000, subtype="FLOAT")


def run(audio, out, form, pool="mean", *, stop=False, overwrite=False, **changes):
    config = ExtractConfig(pool=Pool(pool), batch_size=3)
    settings = {"format": form, "pool": pool, "model": "m", "model_sha256": "0" * 64, "features": "concat", **changes}
    with Recorder(out, settings, 4, overwrite=overwrite) as recorder:
        found = find_audio([audio]) if not isinstance(audio, list) else find_audio(audio)
        complete = recorder.state.complete is not None
        plan = job.make_plan(str(out), found, recorder.state, retry=stop or complete or not recorder.state.length)
        if complete and not plan.todo and not plan.moved:
            return plan, []
        recorder.begin()
        for old, file in plan.moved:
            recorder.rename(old, file)
        steps = list(job.embed_files(plan, recorder, Stub(), config, stop=stop))
        recorder.export(plan.order, complete=not (stop and steps and steps[-1].error))
    return plan, steps


def contents(folder):
    """Every file but the lock, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock" and path.suffix != ".part"
    }


class Killer:
    """Ends the run at its n-th write, of which half is done."""

    def __init__(self, monkeypatch):
        self.left = -1
        put, append, replace = GrowingArray._put, Recorder._append, os.replace

        def killing_put(array, offset, data):
            if self.due():
                put(array, offset, data[: len(data) // 2])
                raise Killed
            put(array, offset, data)

        def killing_append(recorder, record):
            if self.due():
                line = json.dumps(record).encode()
                with open(recorder.folder / "journal.jsonl", "ab") as file:
                    file.write(line[: len(line) // 2])
                raise Killed
            append(recorder, record)

        def killing_replace(source, target):
            if self.due():
                raise Killed
            replace(source, target)
            if self.due():
                raise Killed

        monkeypatch.setattr(GrowingArray, "_put", killing_put)
        monkeypatch.setattr(Recorder, "_append", killing_append)
        monkeypatch.setattr(files.os, "replace", killing_replace)

    def due(self):
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize(("form", "pool"), [("npz", "mean"), ("npy", "none"), ("jsonl", "none")])
def test_killed_at_any_write_the_next_run_ends_as_if_nothing_had_happened(
    audio, tmp_path, encoded, monkeypatch, form, pool
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    whole.mkdir()
    run(audio, whole / f"x.{form}", form, pool)
    assert len(encoded) == len(set(encoded)) == WINDOWS
    expected, killer = contents(whole), Killer(monkeypatch)
    for moment in itertools.count(1):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        encoded.clear()
        killer.left = moment
        try:
            run(audio, out / f"x.{form}", form, pool)
            break  # no write is left to be killed at
        except Killed:
            killer.left = -1
        run(audio, out / f"x.{form}", form, pool)
        assert contents(out) == expected, moment
        assert len(encoded) <= WINDOWS + 9 and len(set(encoded)) == WINDOWS, moment  # three batches of 3 in flight
    assert moment > 40


def test_what_a_power_cut_took_from_the_disk_is_computed_again(audio, tmp_path, encoded, monkeypatch):
    run(audio, tmp_path / "whole.npz", "npz", "none")
    killer = Killer(monkeypatch)
    out = tmp_path / "x.npz"
    killer.left = 60
    with pytest.raises(Killed):
        run(audio, out, "npz", "none")
    killer.left = -1
    state = read_state(out)
    assert state.rows >= 4
    store = tmp_path / "x.npz.journal" / "rows.npy"
    data = bytearray(store.read_bytes())
    data[-20:] = bytes(20)  # the journal reached the disk before these rows
    store.write_bytes(data)
    run(audio, out, "npz", "none")
    whole, found = read_table(tmp_path / "whole.npz"), read_table(out)
    assert found.paths == whole.paths
    np.testing.assert_array_equal(found.embeddings[:, :3], whole.embeddings[:, :3])  # the last depends on the batch


@pytest.mark.parametrize("form", ["npz", "npy", "parquet", "csv", "jsonl"])
@pytest.mark.parametrize("pool", ["mean", "none"])
def test_every_format_holds_the_same(audio, tmp_path, encoded, form, pool):
    run(audio, tmp_path / "x.npz", "npz", pool)
    run(audio, tmp_path / f"y.{form}", form, pool)
    one, other = read_table(tmp_path / "x.npz"), read_table(tmp_path / f"y.{form}")
    np.testing.assert_array_equal(other.embeddings, one.embeddings)
    np.testing.assert_array_equal([other.start, other.end], [one.start, one.end])
    assert other.paths == one.paths and len(one.paths) == (len(SECONDS) if pool == "mean" else WINDOWS)
    assert {**other.settings, "format": "npz"} == one.settings and one.settings["complete"] is True


@pytest.mark.parametrize("form", ["npz", "npy", "parquet", "csv", "jsonl"])
def test_new_and_changed_files_are_embedded_and_the_rest_is_not(audio, tmp_path, encoded, form):
    out = tmp_path / f"x.{form}"
    run(audio, out, form)
    encoded.clear()
    plan, steps = run(audio, out, form)
    assert encoded == steps == plan.todo == [] and len(plan.done) == len(SECONDS)

    write(audio / "b" / "a.wav", 0.3, 17)
    write(audio / "c.wav", 0.1, 18)
    plan, steps = run(audio, out, form)
    assert [step.entry.name for step in steps if step.entry] == ["b/a.wav", "c.wav"]
    assert plan.changed == 1 and len(encoded) == 4
    run(audio, tmp_path / "anew.npz", "npz")
    expected, found = read_table(tmp_path / "anew.npz"), read_table(out)
    assert set(found.paths) == set(expected.paths)
    if form != "npy":  # which keeps rows where they are
        assert found.paths == expected.paths
    order = [found.paths.index(path) for path in expected.paths]
    np.testing.assert_array_equal(found.embeddings[order, :3], expected.embeddings[:, :3])
    np.testing.assert_array_equal(found.end[order], expected.end)


def test_a_changed_file_with_more_rows_than_before(audio, tmp_path, encoded):
    for form in ("npz", "npy"):
        run(audio, tmp_path / f"x.{form}", form, "none")
    write(audio / "b" / "c.wav", 0.5, 17)
    for form in ("npz", "npy"):
        run(audio, tmp_path / f"x.{form}", form, "none")
        table = read_table(tmp_path / f"x.{form}")
        rows = [i for i, path in enumerate(table.paths) if path == "b/c.wav"]
        np.testing.assert_allclose(table.end[rows], [0.1, 0.2, 0.3, 0.4, 0.5])
        assert len(table.paths) == WINDOWS + 3
        first = soundfile.read(audio / "b" / "c.wav", dtype="float32")[0]
        np.testing.assert_array_equal(table.embeddings[rows, 0], first[::1600])


def test_an_unfinished_file_that_changes_begins_anew(audio, tmp_path, encoded, monkeypatch):
    killer, out = Killer(monkeypatch), tmp_path / "x.npz"
    for killer.left in range(10, 200):
        with pytest.raises(Killed):
            run(audio, out, "npz")
        if read_state(out).open is not None:
            break
    killer.left = -1
    name = read_state(out).open.name
    assert name == "b/a.wav"
    write(audio / name, 0.4, 99)
    encoded.clear()
    run(audio, out, "npz")
    table = read_table(out)
    assert table.end[table.paths.index(name)] == 0.4
    assert table.embeddings[table.paths.index(name), 0] == pytest.approx(
        soundfile.read(audio / name, dtype="float32")[0][::1600].mean(), abs=1e-7
    )


def test_a_moved_folder_and_other_names_are_not_embedded_again(audio, tmp_path, encoded):
    out = tmp_path / "x.csv"
    run(audio, out, "csv")
    audio.rename(tmp_path / "moved")
    encoded.clear()
    run(tmp_path / "moved", out, "csv")
    assert encoded == []
    shutil.copytree(tmp_path / "moved", tmp_path / "other")
    write(tmp_path / "other" / "a.wav", 0.1, 50)
    run([tmp_path / "moved", tmp_path / "other"], out, "csv")  # names clash now, and get their folder's
    assert {path.split("/")[0] for path in read_table(out).paths} == {"moved", "other"}
    assert len(read_table(out).paths) == 2 * len(SECONDS)


def test_rows_of_other_inputs_are_kept_and_names_stay_apart(audio, tmp_path, encoded):
    out = tmp_path / "x.npy"
    run(audio / "b", out, "npy")
    plan, _ = run([audio / "d.wav"], out, "npy")
    assert len(plan.kept) == 2 and set(read_table(out).paths) == {"a.wav", "c.wav", "d.wav"}
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"a\.wav: would go by the name 'a\.wav', which .*b/a\.wav has in .*x\.npy"):
        run([audio / "a.wav"], out, "npy")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": "invariant"}, "begun with features 'concat', now 'invariant'"),
        ({"pool": "none"}, "begun with pool 'mean', now 'none'"),
        ({"dtype": "bfloat16"}, "begun with dtype 'float32', now 'bfloat16'"),
        ({"form": "npz"}, "begun with format 'csv', now 'npz'"),
        ({"model": "n", "model_sha256": "1" * 64}, r"begun with model 'm' \(sha256 000000000000\), now 'n' \(sha256 1"),
        ({"encoder": {"adapter": "none"}}, "begun with model 'm'"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_by_name(audio, tmp_path, encoded, monkeypatch, changes, message, finished):
    out = tmp_path / "x.csv"
    if finished:
        run(audio, out, "csv")
    else:
        killer = Killer(monkeypatch)
        killer.left = 30
        with pytest.raises(Killed):
            run(audio, out, "csv")
    before = contents(tmp_path)
    form = changes.get("form", "csv")
    with pytest.raises(ConfigError, match=message + r".*with --overwrite"):
        run(audio, out, form, **{key: value for key, value in changes.items() if key != "form"})
    assert contents(tmp_path) == before


def test_the_same_weights_by_another_name_are_no_other_model(audio, tmp_path, encoded):
    run(audio, tmp_path / "x.npz", "npz")
    encoded.clear()
    run(audio, tmp_path / "x.npz", "npz", model="a folder with the same weights")
    assert encoded == []


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_overwrite_starts_anew(audio, tmp_path, encoded, form):
    run(audio, tmp_path / f"x.{form}", form)
    run(audio / "b", tmp_path / f"x.{form}", form, overwrite=True, features="invariant")
    table = read_table(tmp_path / f"x.{form}")
    assert table.paths == ("a.wav", "c.wav") and table.settings["features"] == "invariant"


def test_an_output_that_no_journal_knows_is_not_touched(audio, tmp_path, encoded):
    for name in ("x.npz", "x.npy"):
        out = tmp_path / name
        out.write_bytes(b"mine")
        with pytest.raises(ConfigError, match="exists, and no journal beside it says how it was made"):
            run(audio, out, name[2:])
        assert out.read_bytes() == b"mine" and not (tmp_path / f"{name}.journal").exists()
    assert encoded == []


def test_an_output_that_changed_since_is_not_touched(audio, tmp_path, encoded):
    run(audio, tmp_path / "x.csv", "csv")
    with open(tmp_path / "x.csv", "a") as file:
        file.write("a line of mine\n")
    with pytest.raises(ConfigError, match="when its run ended"):
        run(audio, tmp_path / "x.csv", "csv")
    os.remove(tmp_path / "x.csv")  # gone: so the user wants it made again
    run(audio, tmp_path / "x.csv", "csv")
    assert len(read_table(tmp_path / "x.csv").paths) == len(SECONDS)


def test_two_runs_do_not_write_one_output(audio, tmp_path, encoded):
    settings = {"format": "npz", "pool": "mean"}
    with Recorder(tmp_path / "x.npz", settings, 4), pytest.raises(ConfigError, match="another run is writing it"):
        run(audio, tmp_path / "x.npz", "npz")


def test_broken_files_are_tried_again_by_the_run_after(audio, tmp_path, encoded, monkeypatch):
    samples = np.zeros(40000, np.float32)
    samples[39000] = np.nan  # found when most of its windows are encoded
    soundfile.write(audio / "b" / "b.wav", samples, 16000, subtype="FLOAT")
    out, killer = tmp_path / "x.npz", Killer(monkeypatch)
    for killer.left in range(30, 300):
        shutil.rmtree(tmp_path / "x.npz.journal", ignore_errors=True)
        with pytest.raises(Killed):
            run(audio, out, "npz", "none")
        if any(entry.error for entry in read_state(out).entries.values()):
            break
    killer.left = -1
    plan, _ = run(audio, out, "npz", "none")
    assert [entry.name for entry in plan.failed] == ["b/b.wav"] and "NaN" in plan.failed[0].error
    assert "b/b.wav" not in read_table(out).paths and len(read_table(out).paths) == WINDOWS
    plan, steps = run(audio, out, "npz", "none")
    assert [step.file.name for step in steps if step.error] == ["b/b.wav"]
    write(audio / "b" / "b.wav", 0.2, 3)
    run(audio, out, "npz", "none")
    assert read_table(out).paths.count("b/b.wav") == 2


def test_stopping_at_the_first_failure_keeps_what_came_before(audio, tmp_path, encoded):
    (audio / "b" / "b.wav").write_bytes(b"RIFF nothing")
    out = tmp_path / "x.npz"
    _, steps = run(audio, out, "npz", stop=True)
    assert steps[-1].file.name == "b/b.wav" and steps[-1].error is not None
    table = read_table(out)
    assert table.paths == ("a.wav", "b/a.wav") and table.settings["complete"] is False
    write(audio / "b" / "b.wav", 0.1, 3)
    encoded.clear()
    run(audio, out, "npz", stop=True)
    assert len(read_table(out).paths) == len(SECONDS) + 1 and read_table(out).settings["complete"] is True
    assert len(encoded) == 1 + 2 + 1 + 5


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_a_full_disk_loses_nothing(audio, tmp_path, encoded, monkeypatch, form):
    run(audio, tmp_path / f"whole.{form}", form)
    out, put = tmp_path / f"x.{form}", GrowingArray._put
    room = [500]

    def full(array, offset, data):
        room[0] -= len(data) if len(data) < 128 else 0  # rows, no headers
        if room[0] < 0:
            put(array, offset, data[:5])
            raise OSError(28, "No space left on device")
        put(array, offset, data)

    monkeypatch.setattr(GrowingArray, "_put", full)
    said = r"cannot be written \(No space left on device\); what is finished is kept in x\.np.\.journal: make space"
    with pytest.raises(ConfigError, match=said):
        run(audio, out, form)
    finished = sum(bool(entry.rows) for entry in read_state(out).entries.values())
    assert finished >= 1
    if form == "npy":  # usable as it is
        assert len(read_table(out).paths) == finished
        assert len(np.load(out)) >= finished
    room[0] = 10**9
    run(audio, out, form)
    np.testing.assert_array_equal(read_table(out).embeddings, read_table(tmp_path / f"whole.{form}").embeddings)


def test_an_output_that_cannot_be_written_at_the_end_keeps_all(audio, tmp_path, encoded, monkeypatch):
    out, replace = tmp_path / "x.npz", os.replace

    def refuse(source, target):
        if str(target) == str(out):
            raise OSError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(ConfigError, match=r"cannot be written \(Permission denied\); what is finished is kept"):
        run(audio, out, "npz")
    monkeypatch.undo()
    plan, _ = run(audio, out, "npz")
    assert plan.todo == [] and len(read_table(out).paths) == len(SECONDS)


def test_nothing_usable_leaves_nothing(tmp_path, encoded):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(b"nothing")
    for form in ("npz", "npy"):
        run(tmp_path / "audio", tmp_path / f"x.{form}", form)
    assert os.listdir(tmp_path) == ["audio"]


def test_a_journal_of_a_later_version_is_refused(audio, tmp_path, encoded):
    (tmp_path / "x.npz.journal").mkdir()
    (tmp_path / "x.npz.journal" / "journal.jsonl").write_text('{"journal": 99, "settings": {}}\n')
    with pytest.raises(ConfigError, match="version 99, of a later mtslvr; upgrade"):
        run(audio, tmp_path / "x.npz", "npz")


def test_names_that_are_no_utf8_and_names_with_quotes(tmp_path, encoded):
    root = os.fsencode(tmp_path / "audio")
    os.makedirs(root)
    names = [b"caf\xe9.wav", b'say "a, b".wav', "音.wav".encode()]
    for name in names:
        write(tmp_path / "x.wav", 0.1, len(name))
        os.replace(os.fsencode(tmp_path / "x.wav"), os.path.join(root, name))
    for form in ("npz", "npy", "csv", "jsonl", "parquet"):
        run(tmp_path / "audio", tmp_path / f"x.{form}", form)
        found = read_table(tmp_path / f"x.{form}").paths
        expected = {
            os.fsdecode(name) if form != "parquet" else name.decode("utf-8", "backslashreplace") for name in names
        }
        assert set(found) == expected, form
        assert run(tmp_path / "audio", tmp_path / f"x.{form}", form)[1] == []
