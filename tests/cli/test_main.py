"""The `mtslvr` group: its commands, and training and few-shot from the command line."""

import json

import click
import pytest

import mtslvr
from mtslvr.cli.main import NAMES, main
from mtslvr.cli.train import SYSTEMS
from mtslvr.training.config import TrainConfig
from mtslvr.training.recipes import System


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, write):
    """Three classes of tones that any features tell apart, four clips each."""
    root = tmp_path_factory.mktemp("labelled")
    for name, hertz in (("low", 150), ("middle", 900), ("high", 5000)):
        for take in range(4):
            write(root / name / f"{name}_{take}.wav", 0.5, take, hertz=hertz)
    return root


def test_help_lists_every_command_with_its_exit_codes_and_options_and_what_of_training_is_the_default(run):
    listed = run("--help").output
    options = {name: main.get_command(None, name).params for name in NAMES}
    for name in NAMES:
        assert f"  {name} " in listed and "Exit codes: 0 " in run(name, "--help").output
        for option in options[name]:
            assert isinstance(option, click.Argument) or option.help, f"{name}: {option.name} has no help"
    for name, config in (("train", TrainConfig()), ("whiten", TrainConfig().heads)):
        for option in options[name]:
            value = getattr(config, option.name, None)
            if isinstance(value, (int, float)):
                told = {True: "on", False: "off"}[value] if isinstance(value, bool) else f"{value:g}"
                assert option.help.endswith(f"[default: {told}]"), f"{name} --{option.name}: {value}"
    outputs = [option.opts for name in NAMES for option in options[name] if "-o" in option.opts]
    assert len(outputs) >= 8 and all(opts == ["-o", "--out"] for opts in outputs)
    assert tuple(system.value for system in System) == SYSTEMS
    for name in ("merge", "convert"):
        assert "--output" in run(name, "a", "b", "--output", "x", code=2).stderr  # what was typed
    unknown = run("embedd", code=2).output
    assert "No such command 'embedd'" in unknown and "Did you mean embed?" in unknown


# Nothing given, and what is to be refused before a model is asked for or a folder taken that the right call would miss.
BAD_USAGE = {
    "embed": ["", "DIR -o x.npz --device gpu --model no/such@model"],
    "merge": ["", "x.npz nowhere.npz"],
    "classify": ["", "DIR WAV -o x.csv --threshold 2 --model no/such@model"],
    "similar": ["", "nowhere.npz WAV -k 0"],
    "plot": ["", "nowhere.npz -o x.png"],
    "fewshot": ["", "DIR --n-way 0 --model no/such@model"],
    "invariance": ["", "DIR --clips 0 --model no/such@model"],
    "report": ["", "nowhere.json -o x.html", "nowhere.json -o x.pdf"],
    "models": ["a b"],
    "download": ["", "a b"],
    "push": ["", "DIR"],
    "convert": ["", "nowhere.pt x --global-mean 0"],
    "export": ["", "a b.onnx --layer none"],
    "pack": ["", "DIR -o x --max-seconds 0.1"],
    "train": ["", "--out x --system none"],
    "whiten": ["", "nowhere x --clips many"],
}


@pytest.mark.parametrize("command", [f"{name} {given}" for name, several in BAD_USAGE.items() for given in several])
def test_wrong_usage_is_a_sentence_and_leaves_nothing(run, labelled, tmp_path, monkeypatch, command):
    assert BAD_USAGE.keys() == set(NAMES)
    monkeypatch.chdir(tmp_path)
    paths = {"DIR": labelled, "WAV": labelled / "low" / "low_0.wav"}
    result = run(*(paths.get(argument, argument) for argument in command.split()), code=2)
    assert isinstance(result.exception, SystemExit) and "Error: " in result.stderr and not list(tmp_path.iterdir())


def test_fewshot_prints_features_beside_the_baseline_and_writes_what_it_is_asked_for(run, labelled, model, tmp_path):
    result = run("fewshot", labelled, "--model", model, "--n-way", 3, "--episodes", 50, "--window", 0.3)
    found, header, columns, *rows = result.stdout.splitlines()
    assert found == "labelled0: 3 classes, 12 files (windows of 0.3 s)"
    assert header == "3-way 1-shot, 1 query a class, 50 episodes, seed 42; accuracy in % ± 95% interval over clips"
    assert columns.split("  ")[-1] == "labelled0, logistic"
    assert [row.split()[0] for row in rows] == ["invariant", "variant", "concat", "pooled", "log-mel"]
    assert float(rows[-1].split()[-3]) > 90  # three tones: a log-mel spectrum tells them apart
    table, page = tmp_path / "classes.csv", tmp_path / "page.html"
    table.write_text("file,label\n" + "".join(f"{n}/{n}_{i}.wav,{n}\n" for n in ("low", "high") for i in range(4)))
    json_file, csv, md, png = files = [tmp_path / f"a.{suffix}" for suffix in ("json", "csv", "md", "png")]
    outputs = ["-o", json_file, "--out", csv, "--output", md, "--plot", png]  # --output is of 0.2
    baseline = ["--n-way", 2, "--episodes", 20, "--features", "log-mel"]  # needs no encoder
    several = ["--shots", "1,2", "--classifier", "cosine,centroid", "--per-class"]
    result = run("fewshot", labelled, "--labels", table, *baseline, *several, *outputs)
    assert "warning: " in result.stderr and "4 audio files" in result.stderr and ".py" not in result.stderr
    assert "accuracy of each class: labelled0, cosine, 2-shot" in result.stdout
    assert all(file.stat().st_size > 100 for file in files)
    assert len(json.loads(json_file.read_text())["rows"]) == 4
    run("report", json_file, "-o", page)
    assert page.read_text().startswith("<!DOCTYPE html>")
    result = run("fewshot", "--dataset", "speechcommands", "--root", labelled, *baseline)
    assert "3 classes, 12 files (Speech Commands v2, test classes (all, as published), windows of 1" in result.stdout
    assert "Speech Commands v2 has 35 and 105,829 in the paper" in result.stderr


def test_fewshot_names_what_is_wrong_before_any_work(run, labelled):
    for arguments, message in (
        ([], "nothing to measure: give a folder"),
        (["--dataset", "esc50"], "1 --dataset and 0 --root"),
        (["--dataset", "esc50", "--root", "x", "--window", "1"], "--window 1 with --dataset esc50"),
        ([labelled, "--shots", "1,many"], "--n-shot 1,many: must be whole numbers"),
        ([labelled, "--n-way", 3, "--shots", "1,10"], "take 11 files of each; here are 3 classes, and 0 of"),
        ([labelled, "-o", "x.xls"], "unknown format '.xls'; end the name in one of .json"),
        ([labelled, "--plot", "x.bmp"], "unknown format '.bmp'"),
        ([labelled, labelled, "--labels", "x.csv"], "with 2 folders; give the one"),
    ):
        assert message in run("fewshot", *arguments, "--model", "no/such@model", code=2).output


@pytest.mark.slow
def test_pack_then_train_a_system_in_the_published_recipe(run, labelled, tmp_path):
    (labelled / "broken.wav").write_bytes(b"no audio")
    told = run("pack", labelled, "-o", tmp_path / "packed", "--max-seconds", 0.5).output
    (labelled / "broken.wav").unlink()
    assert "broken.wav" in told and "1 file left out" in told and "standard deviation 0." in told
    kept_out = {"heads": None, "validate_every": 0, "validation_fraction": 0.0, "patience": 0}
    (tmp_path / "c.json").write_text(json.dumps(kept_out))
    options = ["--steps", 2, "--batch-size", 4, "--crop-seconds", 0.3, "--dtype", "float32", "--workers", 0]
    options += ["--config", tmp_path / "c.json", "--recipe", "published", "--contrastive", "simsiam"]
    train = ["train", "--data", tmp_path / "packed", "--out", tmp_path / "run", *options, "--system", "mt-bn"]
    run(*train, "--stop-after", 1)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["optimizer"], saved["contrastive"], saved["encoder"]["adapter"]) == ("adam", "simsiam", "bn")
    assert (saved["steps"], saved["batch_size"]) == (2, 4)
    assert "holds a run already" in run(*train, code=2).output
    run("train", "--out", tmp_path / "run", "--resume", "--workers", 0)
    assert mtslvr.load(tmp_path / "run" / "checkpoint").config.adapter is mtslvr.AdapterKind.BN


def test_a_system_and_a_config_that_sets_another_are_refused(run, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"encoder": {"adapter": "series"}}))
    told = run("train", "--out", tmp_path / "run", "--config", tmp_path / "c.json", "--system", "mt-bn", code=2).output
    assert "--system mt-bn with" in told and "leave one out" in told
    assert not (tmp_path / "run").exists()
