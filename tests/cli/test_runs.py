"""mtslvr-embed over several runs: killed, interrupted, told otherwise; progress, and the shell's completion."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mtslvr.audio.recordings import Notes
from mtslvr.cli.embed import embed_command
from mtslvr.cli.summary import Progress
from mtslvr.errors import AudioError
from mtslvr.run.job import Step
from mtslvr.run.state import FileEntry, read_state
from mtslvr.run.table import read_table

COMMAND = [sys.executable, "-c", "from mtslvr.cli.embed import main; main()"]


@pytest.mark.slow
def test_killed_or_interrupted_the_same_command_ends_as_if_nothing_had_happened(model, embed, write, tmp_path):
    for i in range(8):
        write(tmp_path / "many" / f"{i:02}.wav", 0.5, i)
    write(tmp_path / "many" / "05 long.wav", 12, 99)
    arguments, whole = [tmp_path / "many", "--batch-size", 3, "--pool", "none", "-q"], tmp_path / "whole.npz"
    embed(*arguments, "-o", whole)
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        out = tmp_path / f"{code}.npz"
        command = [*COMMAND, "--model", model, *map(str, arguments), "-o", out]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not ((state := read_state(out)) and state.open and state.open.rows > 9):
            time.sleep(0.002)
        process.send_signal(number)
        told = process.communicate(timeout=60)[1]
        assert process.returncode == code, told
        state = read_state(out)
        stored = sum(entry.rows for entry in state.entries.values()) + (state.open.rows if state.open else 0)
        if number == signal.SIGINT:  # what is finished is there at once
            assert "the same command goes on from there" in told and read_table(out).settings["complete"] is False
        else:
            assert not out.exists()
        report = json.loads(embed(*arguments, "-o", out, "--json").stdout)
        assert report["audio_seconds"] == pytest.approx(16 - 0.25 * stored)  # the batch in flight was not stored
        assert out.read_bytes() == whole.read_bytes()


def test_other_features_are_refused_and_overwrite_starts_anew(audio, embed, tmp_path):
    out, bad = tmp_path / "x.npy", tmp_path / "bad.wav"
    embed(audio, "-o", out)
    before = out.read_bytes()
    for more in ([], ["--dry-run"]):
        result = embed(audio, "-o", out, "--features", "variant", *more, code=2)
        assert "begun with features 'concat', now 'variant'" in result.stderr and out.read_bytes() == before
    embed(audio, "-o", out, "--features", "variant", "--overwrite")
    bad.write_bytes(b"nothing")
    assert f"no embeddings, {out} stays as it was" in embed(bad, "-o", out, "--overwrite", code=1).stderr
    assert np.load(out, mmap_mode="r").shape == (3, 500)


def test_failures_are_listed_and_tried_again_or_end_the_run(audio, embed, write, tmp_path):
    bad, out, log = tmp_path / "bad.wav", tmp_path / "x.npz", tmp_path / "x.npz.errors.jsonl"
    bad.write_bytes(b"nothing")
    embed(bad, audio, "-o", out, code=1)
    assert "not an audio file" in json.loads(log.read_text())["message"]
    stopping = [audio / "a.wav", bad, audio / "b.wav", "--on-error", "stop"]
    assert f"stopped at {bad}: not an audio file" in embed(*stopping, "-o", tmp_path / "x.csv", code=1).stderr
    assert read_table(tmp_path / "x.csv").paths == ("a.wav",)
    assert len(embed(*stopping, "-o", "-", "--format", "csv", code=1).stdout.splitlines()) == 2
    missing = embed(*stopping, "nowhere.wav", "-o", tmp_path / "y.csv", code=1)
    assert "nothing is embedded (--on-error stop)" in missing.stderr
    write(bad, 0.3)
    assert "1 file embedded, 3 already there" in embed(bad, audio, "-o", out).stderr
    assert not log.exists() and read_table(out).paths[0] == "bad.wav"
    bad.write_bytes(b"nothing again")
    told = embed(bad, audio, "-o", out, code=1).stderr
    assert "(the output keeps what an earlier run made of it)" in told and "already there, 1 failed; 4 rows" in told


def test_a_dry_run_lists_files_and_writes_nothing(audio, embed, tmp_path):
    out = tmp_path / "x.npz"
    result = embed(audio, "-o", out, "--dry-run")
    assert result.stdout.split() == [str(audio / name) for name in ("a.wav", "b.wav", "deep/a.wav")]
    assert "3 files to embed, 0 already there; nothing is written" in result.stderr
    assert os.listdir(tmp_path) == []
    embed(audio / "a.wav", "-o", out)
    report = json.loads(embed(audio, "-o", out, "--dry-run", "--json", "-q").output)
    assert (report["done"], report["skipped"], report["dry_run"]) == (2, 1, True)


@pytest.mark.slow
def test_a_broken_pipe_ends_the_run_in_silence(audio, model):
    arguments = [audio, "-o", "-", "--model", model, "--batch-size", "1", "--pool", "none", "--hop", "0.01", "-q"]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b'{"file": "a.wav"')
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(audio, write, model, tmp_path, monkeypatch):
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    arguments = [audio, tmp_path / "bad.wav", "--model", model, "-o", tmp_path / "x.npz", "--overwrite"]
    for terminal in (False, True):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        with pytest.raises(SystemExit):
            embed_command.main([*map(str, arguments)])
        text = stream.getvalue()
        assert "bad.wav: not an audio file" in text
        assert ("\r" in text) is (f"loading {model} ..." in text) is terminal
        last = [line for line in text.replace("\r", "\n").splitlines() if "/4 files" in line][-1]
        assert "4/4 files" in last and last.endswith(" times real time")


def test_the_time_left_is_by_the_bytes_left_once_some_are_embedded(capfd, monkeypatch):
    now, sizes = 1000.0, (900, 1, 500, 500)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    files = [FileEntry(f"{i}", f"{i}", size, 0, 0) for i, size in enumerate(sizes)]
    progress = Progress(files)
    for file, error, seconds, after, told in (
        (files[0], AudioError("broken"), 0.0, 1, "1/4 files\n"),
        (files[1], None, 40.0, 20, "2/4 files, 2.0 times real time\n"),
        (files[2], None, 360.0, 40, "3/4 files, 10.0 times real time, 0:00:40 left\n"),
    ):
        now = 1000.0 + after
        progress.advance(Step(file, seconds, None if error else file, error, Notes()))
        assert capfd.readouterr().err == f"embedding: {told}"


@pytest.mark.parametrize(
    ("name", "module", "typed", "completed"),
    [("mtslvr-embed", "embed", "--on-e", "plain,--on-error"), ("mtslvr", "main", "sim", "plain,similar")],
)
def test_shell_completion(name, module, typed, completed):
    environment = {f"_{name.upper().replace('-', '_')}_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
    environment |= {**os.environ, "COMP_WORDS": f"{name} {typed}"}
    code = f"import sys; sys.argv = [{name!r}]; from mtslvr.cli.{module} import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == completed, done.stderr
