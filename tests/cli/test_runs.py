"""mtslvr-embed over several runs: killed, interrupted, told otherwise; lists, summaries, standard output."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.embed import embed_command
from mtslvr.cli.progress import Progress, clock
from mtslvr.models import checkpoint
from mtslvr.run import extract
from mtslvr.run.store import read_state
from mtslvr.run.table import read_table

COMMAND = [sys.executable, "-c", "from mtslvr.cli.embed import main; main()"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    config = mtslvr.EncoderConfig(window_seconds=0.25)
    return checkpoint.save(mtslvr.Encoder(config), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Three short files in two folders."""
    root = tmp_path_factory.mktemp("audio")
    for seed, name in enumerate(["a.wav", "b.wav", "deep/a.wav"]):
        (root / name).parent.mkdir(exist_ok=True)
        write(root / name, 0.5, seed)
    return root


def write(path, seconds, seed=0):
    samples = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000))
    soundfile.write(path, samples, 16000)


def run(*arguments, **more):
    return CliRunner().invoke(embed_command, [str(a) for a in arguments], **more)


def test_kill_9_and_the_same_command_end_as_if_nothing_had_happened(model, tmp_path, monkeypatch):
    (tmp_path / "many").mkdir()
    for i in range(8):
        write(tmp_path / "many" / f"{i:02}.wav", 0.5, i)
    write(tmp_path / "many" / "05 long.wav", 12, 99)
    windows = 8 * 2 + 48
    arguments = [tmp_path / "many", "--model", model, "--batch-size", 3, "--pool", "none", "-q"]
    out = tmp_path / "x.npz"
    process = subprocess.Popen([*COMMAND, *map(str, arguments), "-o", str(out)])
    while process.poll() is None:
        state = read_state(out)
        if state is not None and state.open is not None and state.open.rows > 9:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    state = read_state(out)
    stored = sum(entry.rows for entry in state.entries.values()) + state.open.rows

    computed, encode = [], extract._encode
    monkeypatch.setattr(extract, "_encode", lambda e, rows, c: computed.append(len(rows)) or encode(e, rows, c))
    assert run(*arguments, "-o", out).exit_code == 0
    assert sum(computed) == windows - stored  # the batch in flight was not stored
    assert run(*arguments, "-o", tmp_path / "whole.npz").exit_code == 0
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_control_c_leaves_what_is_finished_and_the_rest_to_the_next_run(model, tmp_path):
    (tmp_path / "many").mkdir()
    for i in range(40):
        write(tmp_path / "many" / f"{i:02}.wav", 0.5, i)
    out = tmp_path / "x.npz"
    arguments = [str(tmp_path / "many"), "-o", str(out), "--model", str(model), "--batch-size", "1"]
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
    assert "1/40 files" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command goes on from there" in told, told
    table = read_table(out)
    assert 0 < len(table.paths) < 40 and table.settings["complete"] is False
    result = run(*arguments, "--json")
    report = json.loads(result.stdout)
    assert (report["done"], report["skipped"]) == (40 - len(table.paths), len(table.paths))
    after = read_table(out)
    assert len(after.paths) == 40 and after.settings["complete"] is True
    np.testing.assert_array_equal(after.embeddings[: len(table.paths)], table.embeddings)


def test_another_model_or_features_are_refused_and_overwrite_starts_anew(audio, model, tmp_path):
    torch.manual_seed(1)
    other = checkpoint.save(mtslvr.Encoder(mtslvr.EncoderConfig(window_seconds=0.25)), tmp_path / "other")
    out = tmp_path / "x.npy"
    assert run(audio, "-o", out, "--model", model).exit_code == 0
    before = out.read_bytes()
    result = run(audio, "-o", out, "--model", other, "--features", "variant")
    assert result.exit_code == 2 and out.read_bytes() == before
    assert f"features 'concat', now 'variant'; model '{model}' (sha256 " in result.output
    assert run(audio, "-o", out, "--model", other, "--features", "variant", "--overwrite").exit_code == 0
    assert np.load(out, mmap_mode="r").shape == (3, 500)


def test_metadata_say_by_what_the_rows_were_made(audio, model, tmp_path):
    run(audio, "-o", tmp_path / "x.csv", "--model", model, "--hop", 0.2)
    found = json.loads((tmp_path / "x.csv.meta.json").read_text())
    weights = checkpoint.sha256(model / "model.safetensors")
    assert (found["mtslvr"], found["model"], found["model_sha256"]) == (mtslvr.__version__, str(model), weights)
    assert (found["window_seconds"], found["hop_seconds"], found["pool"]) == (0.25, 0.2, "mean")
    with np.load(run(audio, "-o", tmp_path / "x.npz", "--model", model) and tmp_path / "x.npz") as file:
        assert (file["features"], file["model"]) == ("concat", str(model))
        assert file["paths"].tolist() == ["a.wav", "b.wav", "deep/a.wav"]


def test_parquet_has_a_list_of_fixed_size(audio, model, tmp_path):
    from pyarrow import parquet

    assert run(audio, "-o", tmp_path / "x.parquet", "--model", model).exit_code == 0
    table = parquet.read_table(tmp_path / "x.parquet")
    assert [str(field.type) for field in table.schema][:3] == ["string", "double", "double"]
    assert table.schema.field("embedding").type.list_size == 1000
    assert json.loads(table.schema.metadata[b"mtslvr"])["features"] == "concat"


def test_lists_name_their_missing_files(audio, model, tmp_path):
    listed = [audio / "a.wav", "", tmp_path / "nowhere.wav", audio / "deep", audio / "a.wav"]
    (tmp_path / "list.txt").write_text("\r\n".join(map(str, listed)))
    result = run(f"@{tmp_path}/list.txt", "-o", tmp_path / "x.npz", "--model", model)
    assert result.exit_code == 1
    assert f"skipped {tmp_path}/list.txt, line 3: '{tmp_path}/nowhere.wav': no such file" in result.output
    assert "1 files are named more than once" in result.output
    assert read_table(tmp_path / "x.npz").paths == (f"{audio.name}/a.wav", "deep/a.wav")
    [line] = (tmp_path / "x.npz.errors.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == str(tmp_path / "nowhere.wav") and json.loads(line)["stage"] == "find"


def test_a_list_on_standard_input(audio, model, tmp_path):
    names = b"\0".join(os.fsencode(audio / name) for name in ("a.wav", "b.wav"))
    result = run("-", "-o", tmp_path / "x.npz", "--model", model, input=names)
    assert result.exit_code == 0 and read_table(tmp_path / "x.npz").paths == ("a.wav", "b.wav")
    assert run("-", "-o", tmp_path / "y.npz", "--model", model, input=b"\n").exit_code == 4
    missing = run("@nowhere.txt", "-o", tmp_path / "y.npz")
    assert missing.exit_code == 2 and "@nowhere.txt: list cannot be read" in missing.output


def test_a_long_file_whose_name_is_no_text(model, tmp_path):
    (tmp_path / "many").mkdir()
    write(tmp_path / "x.wav", 2)
    os.replace(tmp_path / "x.wav", os.fsencode(tmp_path / "many") + b"/caf\xe9.wav")
    result = run(tmp_path / "many", "-o", tmp_path / "x.npz", "--model", model, "--batch-size", 2)
    assert result.exit_code == 0, result.output
    assert read_table(tmp_path / "x.npz").paths == ("caf\udce9.wav",)


def test_failures_are_listed_and_tried_again(audio, model, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    arguments = [tmp_path / "bad.wav", audio, "-o", tmp_path / "x.npz", "--model", model]
    result = run(*arguments)
    assert result.exit_code == 1 and "3 files embedded, 1 failed, 0.00 h of audio at" in result.output
    assert f"1 of 4 inputs failed, listed in {tmp_path}/x.npz.errors.jsonl" in result.output
    [line] = (tmp_path / "x.npz.errors.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["file"], record["stage"]) == (str(tmp_path / "bad.wav"), "decode")
    assert "not an audio file" in record["message"]
    write(tmp_path / "bad.wav", 0.3)
    assert run(*arguments).exit_code == 0
    assert not (tmp_path / "x.npz.errors.jsonl").exists()
    assert read_table(tmp_path / "x.npz").paths[0] == "bad.wav"


def test_stopping_at_the_first_failure(audio, model, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    arguments = [audio / "a.wav", tmp_path / "bad.wav", audio / "b.wav", "--model", model, "--on-error", "stop"]
    result = run(*arguments, "-o", tmp_path / "x.csv")
    assert result.exit_code == 1 and f"stopped at {tmp_path / 'bad.wav'}: not an audio file" in result.output
    assert read_table(tmp_path / "x.csv").paths == ("a.wav",)
    missing = run(audio, "nowhere.wav", "-o", tmp_path / "y.csv", "--on-error", "stop")
    assert missing.exit_code == 1 and "nothing is embedded (--on-error stop)" in missing.output
    stream = run(*arguments, "-o", "-", "--format", "csv")
    assert stream.exit_code == 1 and len(stream.stdout.splitlines()) == 2


def test_a_dry_run_lists_files_and_writes_nothing(audio, model, tmp_path):
    out = tmp_path / "x.npz"
    result = run(audio, "-o", out, "--model", model, "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.split() == [str(audio / name) for name in ("a.wav", "b.wav", "deep/a.wav")]
    assert "3 files to embed, 0 already there; nothing is written" in result.stderr
    assert os.listdir(tmp_path) == []
    run(audio / "a.wav", "-o", out, "--model", model)
    again = run(audio, "-o", out, "--model", model, "--dry-run", "--json", "-q")
    report = json.loads(again.stdout)
    assert (report["done"], report["skipped"], report["dry_run"]) == (2, 1, True) and again.stderr == ""
    refused = run(audio, "-o", out, "--model", model, "--dry-run", "--features", "invariant")
    assert refused.exit_code == 2 and "begun with features" in refused.output


def test_the_summary_as_json_and_a_line_a_file(audio, model, tmp_path):
    result = run(audio, "-o", tmp_path / "x.npz", "--model", model, "--json", "-v")
    report = json.loads(result.stdout)
    assert (report["done"], report["skipped"], report["failed"], report["rows"]) == (3, 0, 0, 3)
    assert report["audio_seconds"] == pytest.approx(1.5) and report["audio_hours"] == pytest.approx(1.5 / 3600)
    assert report["audio_seconds_per_second"] > 0 and report["complete"] is True and report["errors"] is None
    assert report["settings"]["model_sha256"] in result.stderr
    assert "deep/a.wav: 0.5 s, rows 1" in result.stderr


def test_standard_output_takes_rows_as_they_come(audio, model, tmp_path):
    lines = run(audio, "-o", "-", "--model", model, "--json", "-q")
    rows = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [row["file"] for row in rows] == ["a.wav", "b.wav", "deep/a.wav"]
    assert json.loads(lines.stderr)["rows"] == 3
    table = run(audio, "-o", "-", "--format", "csv", "--model", model, "-q").stdout.splitlines()
    assert table[0].startswith("file,start,end,e0,e1,") and len(table) == 4
    run(audio, "-o", tmp_path / "x.npz", "--model", model)
    expected = read_table(tmp_path / "x.npz").embeddings
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], np.float32), expected)
    np.testing.assert_array_equal([list(map(np.float32, row.split(",")[3:])) for row in table[1:]], expected)
    refused = run(audio, "-o", "-", "--format", "npz")
    assert refused.exit_code == 2 and "stdout cannot take npz; use --format csv or jsonl" in refused.output


def test_a_broken_pipe_ends_the_run_with_a_message(audio, model, tmp_path):
    arguments = [str(audio), "-o", "-", "--model", str(model), "--batch-size", "1", "--pool", "none", "--hop", "0.01"]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b'{"file": "a.wav"')
    process.stdout.close()
    told = process.stderr.read().decode()
    assert process.wait() == 1
    assert "stdout was closed by its reader after" in told and "Traceback" not in told, told


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_same_names_in_other_folders_and_with_other_suffixes(model, tmp_path, name):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.wav", 0.3)
        soundfile.write(tmp_path / folder / "a.mp3", np.zeros(8000), 16000)
    result = run(tmp_path / "one", tmp_path / "two", "-o", tmp_path / name, "--model", model)
    assert result.exit_code == 0, result.output
    assert read_table(tmp_path / name).paths == ("one/a.mp3", "one/a.wav", "two/a.mp3", "two/a.wav")


# Progress and shells


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch):
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        progress = Progress(4, 400)
        progress.advance(5.0, 100, lambda: 20.0)
        assert progress._done == 25  # bytes: a quarter of the first file
        progress.advance(15.0, 100)
        progress.say("skipped something")
        progress.advance(5.0, 100)
        assert progress._done == 200
        progress.close()
        text = stream.getvalue()
        assert "skipped something\n" in text
        assert ("\r" in text) is stream.isatty()
        last = text.replace("\r", "\n").strip().splitlines()[-1]
        assert "2/4 files" in last and " s of audio a second, 0:00:00 left" in last
    assert clock(3725.4) == "1:02:05"
    monkeypatch.setattr(sys, "stderr", quiet := io.StringIO())
    Progress(4, 400, quiet=True).close()
    assert quiet.getvalue() == ""


@pytest.mark.parametrize("name", ["mtslvr-embed", "mtslvr"])
def test_shell_completion(name):
    variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
    module = "mtslvr.cli.embed" if name == "mtslvr-embed" else "mtslvr.cli.main"
    code = f"import sys; sys.argv = [{name!r}]; from {module} import main; main()"
    typed = {"COMP_WORDS": f"{name} --on-e" if name == "mtslvr-embed" else "mtslvr sim", "COMP_CWORD": "1"}
    environment = {**os.environ, variable: "bash_complete", **typed}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == ("plain,--on-error" if name == "mtslvr-embed" else "plain,similar"), done.stderr
