import contextlib
import itertools
import os
import shutil
import signal
import sqlite3
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

from mtslvr.audio.find import find_audio
from mtslvr.audio.windows import Pool
from mtslvr.config import EncoderConfig
from mtslvr.errors import ConfigError
from mtslvr.run import job
from mtslvr.run.extract import ExtractConfig
from mtslvr.run.recorder import Recorder
from mtslvr.run.state import read_state
from mtslvr.run.table import read_table

SECONDS = {"a.wav": 0.1, "b/a.wav": 0.75, "b/c.wav": 0.2, "d.wav": 0.05, "e.wav": 0.42}
WINDOWS = sum(int(np.ceil(round(seconds / 0.1, 6))) for seconds in SECONDS.values())


class Stub:
    """What extraction asks of an encoder; embeddings depend on the batch, as on some machines."""

    config, sample_rate, device, log = EncoderConfig(window_seconds=0.1), 16000, torch.device("cpu"), None

    def modules(self):
        return []

    def embedding_dim(self, features=None, layer=None):
        return 4

    def embedding(self, batch, features=None, layer=None, *, normalized=False):
        windows = batch.numpy()
        with open(self.log, "ab", buffering=0) as log:
            log.write(windows[:, 0].tobytes())
        rows = [windows[:, 0], windows[:, 9], windows.mean(axis=1), windows.sum() + windows[:, 3]]
        return torch.from_numpy(np.stack(rows, 1))

    def project(self, pooled, features):
        return pooled


@pytest.fixture
def encoded(tmp_path_factory, monkeypatch):
    """Gives the first samples of the windows encoded since it was called, from a file, which outlives a process."""
    log = tmp_path_factory.mktemp("encoded") / "windows"
    monkeypatch.setattr(Stub, "log", log)

    def take():
        found = np.fromfile(log, np.float32).tolist() if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    return take


@pytest.fixture
def audio(tmp_path, write):
    for seed, (name, seconds) in enumerate(SECONDS.items()):
        write(tmp_path / "audio" / name, seconds, seed)
    return tmp_path / "audio"


def run(audio, out, form=None, pool="mean", *, overwrite=False, until=None, **changes):
    """What `mtslvr-embed` does; it ends as if killed after the batch with which `until` is true of what is finished."""
    config = ExtractConfig(pool=Pool(pool), batch_size=3)
    settings = {"format": form or out.suffix[1:], "pool": pool, "model": "m", "model_sha256": "0" * 64}
    with Recorder(out, {**settings, "features": "concat", **changes}, 4, overwrite=overwrite) as recorder:
        plan, steps = job.make_plan(str(out), find_audio(audio), recorder.state), []
        if recorder.state.complete is not None and not plan.todo and not plan.moved:
            return plan, steps
        recorder.begin(plan.moved)
        for step in job.embed_files(plan, recorder, Stub(), config, stop=False):
            steps.append(step)
            if until is not None and until(read_state(out)):
                return plan, steps
        recorder.export(plan.order, complete=True)
    return plan, steps


def contents(folder):
    """Every file but what runs keep for themselves, by name."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path): (folder / path).read_bytes() for path in sorted(found) if ".journal" not in path.parts[0]}


def kill(moment, folder, act):
    """Whether another process could be killed as it was about to do its n-th thing to the files of a folder."""
    child = os.fork()
    if child == 0:
        left = itertools.count(moment - 1, -1)

        def strike(*_):
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def hear(event, arguments):
            if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(folder) in str(arguments[0]):
                strike()

        connect = sqlite3.connect

        def connect_and_hear(*arguments, **more):
            database = connect(*arguments, **more)
            database.set_trace_callback(lambda said: said.split()[0] in ("INSERT", "UPDATE", "SELECT") or strike())
            return database

        with contextlib.suppress(BaseException):
            sqlite3.connect = connect_and_hear
            sys.addaudithook(hear)
            act()
            os._exit(0)
        os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
@pytest.mark.slow
@pytest.mark.parametrize(("form", "pool"), [("npz", "mean"), ("npy", "none")])
def test_killed_at_any_moment_the_next_run_ends_as_if_nothing_had_happened(audio, tmp_path, encoded, form, pool):
    whole, out = tmp_path / "whole", tmp_path / "out"
    whole.mkdir()
    run(audio, whole / f"x.{form}", pool=pool)
    expected, windows = contents(whole), encoded()
    assert len(windows) == len(set(windows)) == WINDOWS
    for moment in itertools.count(1):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if not kill(moment, out, lambda: run(audio, out / f"x.{form}", pool=pool)):
            break
        run(audio, out / f"x.{form}", pool=pool)
        assert contents(out) == expected, moment
        windows = encoded()
        assert len(windows) <= WINDOWS + 9 and len(set(windows)) == WINDOWS, moment  # three batches of 3
    assert moment > 20


class Connection(sqlite3.Connection):
    """To a file in a folder without shared memory, as those on a network may be."""

    def execute(self, statement, *more):
        if "WAL" in statement:
            raise sqlite3.OperationalError("locking protocol")
        return super().execute(statement, *more)


@pytest.mark.parametrize(("pool", "kind"), [("none", sqlite3.Connection), ("mean", Connection)])
def test_a_run_that_ends_inside_a_file_goes_on_there(audio, tmp_path, encoded, monkeypatch, write, pool, kind):
    connect, out = sqlite3.connect, tmp_path / "x.npz"
    monkeypatch.setattr(sqlite3, "connect", lambda path, **more: connect(path, factory=kind, **more))
    run(audio, out, pool=pool, until=lambda state: state.open is not None and state.open.rows > 3)
    assert not out.exists()
    plan, _ = run(audio, out, pool=pool)
    windows = encoded()
    assert len(plan.done) == 1 and len(set(windows)) == WINDOWS and len(windows) <= WINDOWS + 9
    run(audio, tmp_path / "whole.npz", pool=pool)
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    run(audio, out, pool=pool, overwrite=True, until=lambda state: state.open is not None)
    assert read_state(out).open.name == "b/a.wav"
    write(audio / "b" / "a.wav", 0.4, 99)  # which then begins anew
    for path in (out, tmp_path / "anew.npz"):
        run(audio, path, pool=pool)
    assert_same(read_table(out), read_table(tmp_path / "anew.npz"))


def assert_same(found, expected):
    """Whatever the batches were."""
    assert found.paths == expected.paths
    np.testing.assert_allclose(found.embeddings[:, :3], expected.embeddings[:, :3], rtol=0, atol=1e-7)
    np.testing.assert_array_equal(found.end, expected.end)


def test_new_and_changed_files_are_embedded_and_the_rest_is_not(audio, tmp_path, encoded, write):
    out = tmp_path / "x.npy"
    run(audio, out, pool="none")
    encoded()
    plan, steps = run(audio, out, pool="none")
    assert encoded() == steps == plan.todo == [] and len(plan.done) == len(SECONDS)
    before = os.stat(audio / "a.wav")
    write(audio / "a.wav", SECONDS["a.wav"], 50)  # other content of the same size and time
    os.utime(audio / "a.wav", ns=(before.st_mtime_ns, before.st_mtime_ns))
    write(audio / "b" / "c.wav", 0.5, 17)
    write(audio / "c.wav", 0.1, 18)
    plan, steps = run(audio, out, pool="none")
    assert [step.entry.name for step in steps if step.entry] == ["a.wav", "b/c.wav", "c.wav"]
    assert plan.changed == 2 and len(encoded()) == 7 and before.st_size == os.stat(audio / "a.wav").st_size
    run(audio, tmp_path / "anew.npz", pool="none")
    assert_same(read_table(out), read_table(tmp_path / "anew.npz"))


def test_a_moved_folder_and_other_names_are_not_embedded_again(audio, tmp_path, encoded, write):
    out, moved, other = (tmp_path / name for name in ("x.csv", "moved", "other"))
    run(audio, out)
    os.rename(audio, moved)
    encoded()
    plan, _ = run(moved, out, model="a folder with the same weights")
    assert encoded() == [] and len(plan.moved) == len(SECONDS)
    write(moved / "a.wav", 0.3, 60)
    run(moved, out)
    assert len(read_table(out).paths) == len(SECONDS)
    shutil.copytree(moved, other)
    write(other / "a.wav", 0.1, 50)
    run([moved, other], out)  # names clash now, and get their folder's
    assert {path.split("/")[0] for path in read_table(out).paths} == {"moved", "other"}
    plan, _ = run([other / "d.wav"], tmp_path / "x.csv")  # rows of other inputs are kept
    assert len(plan.kept) == 2 * len(SECONDS) - 1 and len(read_table(out).paths) == 2 * len(SECONDS)


def test_a_file_of_the_same_name_size_and_time_is_another_file(tmp_path, encoded, write):
    owl, saw, link, out = (tmp_path / name for name in ("owl/7.wav", "saw/7.wav", "link/7.wav", "all.npz"))
    for seed, path in enumerate((saw, owl)):
        write(path, 0.1, seed)
        os.utime(path, ns=(10**18, 10**18))  # as archives do
        time.sleep(0.02)  # the clock of the file system is coarse
    link.parent.mkdir()
    os.link(owl, link)
    run(owl.parent, out)
    for other, change in ((saw, link.exists), (link, link.exists), (saw, owl.unlink)):
        change()
        with pytest.raises(ConfigError, match=f"{other}: would go by the name '7.wav', which .*owl/7.wav has in"):
            run(other.parent, out)
    assert read_table(out).paths == ("7.wav",) and len(encoded()) == 1


def test_other_settings_are_refused_by_name(audio, tmp_path, encoded):
    for until in (lambda state: state.entries, None):
        run(audio, tmp_path / "x.csv", until=until)
        before = contents(tmp_path)
        for changes, message in (
            ({"dtype": "bfloat16"}, "begun with dtype 'float32', now 'bfloat16'"),
            ({"form": "npz"}, "begun with format 'csv', now 'npz'"),
            ({"model": "n", "model_sha256": "1" * 64}, r"begun with model 'm' \(sha256 0{12}\), now 'n' \(sha256 1"),
        ):
            with pytest.raises(ConfigError, match=message + r".*with --overwrite"):
                run(audio, tmp_path / "x.csv", **changes)
        assert contents(tmp_path) == before


def test_what_killed_runs_left_goes_with_the_next_and_no_output_with_the_last_of_its_inputs(audio, tmp_path, encoded):
    others = ["x.npy.mine.part", "x.npy.b.npy.00aa.part", "y.npy.00aa.part"]
    for name in (f"x.npy.{os.getpid()}.part", "x.npy.0f9e8d7c6b5a4f3e.part", "x.npy.index.csv.00aa.part", *others):
        (tmp_path / name).write_bytes(b"half")
    run(audio / "d.wav", tmp_path / "x.npy")
    kept = {"audio", "x.npy", "x.npy.index.csv", "x.npy.meta.json", "x.npy.journal"}
    assert set(os.listdir(tmp_path)) == {*kept, *others}
    before = contents(tmp_path)
    (audio / "d.wav").write_bytes(b"nothing")
    run(audio / "d.wav", tmp_path / "x.npy")
    assert {**contents(tmp_path), "audio/d.wav": before["audio/d.wav"]} == before
    run(audio / "d.wav", tmp_path / "x.npz")
    assert set(os.listdir(tmp_path)) == {*kept, *others}


def test_what_no_run_has_left_is_not_touched(audio, tmp_path, encoded):
    npy, csv = tmp_path / "x.npy", tmp_path / "x.csv"
    npy.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="exists, and no journal beside it says how it was made"):
        run(audio, npy)
    assert npy.read_bytes() == b"mine" and encoded() == [] and not (tmp_path / "x.npy.journal").exists()
    run(audio, csv)
    csv.write_text(csv.read_text() + "a line of mine\n")
    with pytest.raises(ConfigError, match="when its run ended"):
        run(audio, csv)
    os.remove(csv)  # gone: so the user wants it made again
    assert len(run(audio, csv)[0].todo) == len(read_table(csv).paths) == len(SECONDS)


def test_broken_files_are_tried_again_by_every_run(audio, tmp_path, encoded, write):
    samples, out = np.zeros(40000, np.float32), tmp_path / "x.npz"
    samples[39000] = np.nan  # found when most of its windows are encoded
    soundfile.write(audio / "b" / "b.wav", samples, 16000, subtype="FLOAT")
    run(audio, out, pool="none", until=lambda state: any(entry.error for entry in state.entries.values()))
    for _ in range(2):
        _, steps = run(audio, out, pool="none")
        assert [step.file.name for step in steps if step.error] == ["b/b.wav"]
        assert "b/b.wav" not in read_table(out).paths and len(read_table(out).paths) == WINDOWS
    write(audio / "b" / "b.wav", 0.2, 3)
    run(audio, out, pool="none")
    assert read_table(out).paths.count("b/b.wav") == 2


@pytest.mark.parametrize("pool", ["none", "mean"])
def test_a_file_that_was_embedded_and_cannot_be_read_any_more_keeps_its_rows(audio, tmp_path, encoded, write, pool):
    out, samples = tmp_path / "x.npz", np.zeros(16000, np.float32)
    run(audio, out, pool=pool)
    before = contents(tmp_path)["x.npz"]
    samples[15000] = np.nan  # found when most of its windows are encoded
    soundfile.write(audio / "b" / "a.wav", samples, 16000, subtype="FLOAT")
    (audio / "d.wav").write_bytes(b"nothing")
    for until in (lambda state: state.open is not None, None, None):
        plan, steps = run(audio, out, pool=pool, until=until)
        assert plan.changed == 2 and contents(tmp_path)["x.npz"] == before
    assert [step.file.name for step in steps if step.entry] == []
    assert all("the output keeps what an earlier run made of it" in str(step.error) for step in steps if step.error)
    write(audio / "d.wav", 0.05, 7)
    (audio / "new.wav").write_bytes(b"nothing")
    run(audio, out, pool=pool)
    found, once = read_table(out), read_state(out).entries
    assert set(found.paths) == set(SECONDS) and once[str(audio / "new.wav")].error
    run(audio, out, pool=pool, overwrite=True)
    assert set(read_table(out).paths) == {*SECONDS} - {"b/a.wav"}


def test_an_unfinished_file_that_is_no_input_of_the_next_run_begins_anew_with_the_one_after(audio, tmp_path, encoded):
    out, rest = tmp_path / "x.csv", [audio / "a.wav"]
    run(audio, out, pool="none", until=lambda state: state.open is not None)
    assert read_state(out).open.name == "b/a.wav"
    plan, _ = run(rest, out, pool="none")
    assert not plan.todo and set(read_table(out).paths) == {"a.wav"}
    run(audio, out, pool="none")
    assert len(read_table(out).paths) == WINDOWS


def test_a_full_disk_or_an_output_that_cannot_be_replaced_loses_nothing(audio, tmp_path, encoded, monkeypatch, write):
    for i in range(40):
        write(audio / f"{'a long name ' * 16}{i}.wav", 0.1, i)
    run(audio, tmp_path / "whole.npz")
    out, connect = tmp_path / "x.npz", sqlite3.connect

    def connect_to_little_room(*arguments, **more):
        database = connect(*arguments, **more)
        database.execute("PRAGMA max_page_count = 6")
        return database

    def refuse(*_):
        raise OSError(13, "Permission denied")

    finished = []
    for module, name, fault, said in (
        (sqlite3, "connect", connect_to_little_room, r"database or disk is full\); .* in x\.npz\.journal: make space"),
        (os, "replace", refuse, r"Permission denied\); what is finished is kept"),
    ):
        with monkeypatch.context() as patch, pytest.raises(ConfigError, match=r"cannot be written \(" + said):
            patch.setattr(module, name, fault)
            run(audio, out)
        finished.append(len(read_state(out).entries))
    shutil.copytree(tmp_path / "x.npz.journal", tmp_path / "y.npz.journal")
    state = tmp_path / "y.npz.journal" / "state.sqlite"
    monkeypatch.setattr(sqlite3, "connect", lambda _, **more: connect(f"{state.as_uri()}?mode=ro", uri=True))
    with pytest.raises(ConfigError, match=r"readonly database\); what is finished is kept .* or allow writing"):
        run(audio, tmp_path / "y.npz")
    monkeypatch.undo()
    assert 1 <= finished[0] < finished[1] == len(SECONDS) + 40
    plan, _ = run(audio, out)
    assert len(plan.done) == finished[1]
    np.testing.assert_array_equal(read_table(out).embeddings, read_table(tmp_path / "whole.npz").embeddings)


def test_what_cannot_be_gone_on_with_is_refused_and_overwrite_starts_anew(audio, tmp_path, encoded):
    out, state = tmp_path / "x.npz", tmp_path / "x.npz.journal" / "state.sqlite"
    for leave, message in (
        (lambda: state.write_bytes(b"nothing of ours" * 100), r"cannot be read \(file is not a database\)"),
        (lambda: sqlite3.connect(state).execute("PRAGMA user_version = 99"), "version 99, of another mtslvr"),
        (lambda: state.rename(state.with_name("journal.jsonl")), "of mtslvr 0.2"),
    ):
        run(audio, out, overwrite=True, until=lambda state: state.entries)
        leave()
        with pytest.raises(ConfigError, match=message):
            run(audio, out)
        run(audio, out, overwrite=True)
        assert len(read_table(out).paths) == len(run(audio, out)[0].done) == len(SECONDS)


NAMES = [
    b"caf\xe9.wav", b'say "a, b".wav', "音.wav".encode(), b"two\nlines.wav", b"two\r\nlines.wav", b"\rx\x0b\x1c.wav",
    "a\u2028b\x85c.wav".encode(), b"'=1+1.wav", b" spaces .wav", b'"quoted".wav', b"back\\slash.wav", b",.wav",
    b"caf\\xe9.wav", b"caf\\\xe9.wav",
]  # fmt: skip


@pytest.mark.parametrize("form", ["npz", "npy", "csv", "jsonl", "parquet"])
def test_every_format_gives_back_rows_and_names_of_any_bytes(tmp_path, encoded, form, write):
    audio, out, one = tmp_path / "audio", tmp_path / f"x.{form}", tmp_path / "one.npz"
    for seed, name in enumerate(NAMES):
        write(audio / "x.wav", 0.15, seed)
        os.replace(audio / "x.wav", audio / os.fsdecode(name))
    (audio / "broken\n.wav").write_bytes(b"nothing")
    for path in (one, out):
        run(audio, path, pool="none")
    found, expected = read_table(out), read_table(one)
    np.testing.assert_array_equal(found.embeddings, expected.embeddings)
    np.testing.assert_array_equal([found.start, found.end], [expected.start, expected.end])
    assert {**found.settings, "format": "npz"} == expected.settings and found.settings["complete"] is True
    assert set(found.paths) == set(map(os.fsdecode, NAMES)) and len(found.paths) == 2 * len(NAMES)
    plan, steps = run(audio, out, pool="none")
    assert [step.file.name for step in steps] == ["broken\n.wav"] and len(plan.done) == len(NAMES)
    assert read_table(out).paths == found.paths
