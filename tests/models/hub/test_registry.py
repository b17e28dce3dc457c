import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from mtslvr.cli.main import main
from mtslvr.cli.models import CONVERTED_CARD
from mtslvr.errors import CheckpointError
from mtslvr.models import hub, registry

pytestmark = pytest.mark.usefixtures("narrow_encoders")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def models(*arguments):
    return run("models", *arguments, "--cache-dir", "no cache")


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    copied = shutil.copytree(made, tmp_path / "tiny")
    monkeypatch.setattr(hub, "bundled", lambda: {"tiny": copied})
    return copied


def test_the_list_has_all_facts_in_100_columns_and_as_json(folder):
    name, *lines, blank, _, _, hint = models().output.splitlines()
    assert name == "tiny" and not blank and "mtslvr models NAME" in hint and all(len(line) <= 100 for line in lines)
    size = (folder / "model.safetensors").stat().st_size
    assert [line[14:] for line in lines] == [
        "bundled", "none", "invariant 8, variant 8, concat 8", f"{size / 1e6:.1f} MB", "cc-by-4.0",
        "made-up tones, made-up noise and 1 more", "5-way 1-shot: bells 63.25",
    ]  # fmt: skip
    [row] = json.loads(models("--json").output)
    measured = {"dataset_id": "bells", "dataset": "Bells, five kinds", "task": "5-way 1-shot classification"}
    measured |= {"metric": "accuracy (%), concat, logistic regression", "value": 63.25}
    assert [found["value"] for found in row["few_shot"]] == [61.5, 63.25] and row.pop("few_shot")[1] == measured
    assert row == {
        "name": "tiny", "source": "bundled", "folder": str(folder), "features": ["invariant", "variant", "concat"],
        "dims": {"invariant": 8, "variant": 8, "concat": 8}, "adapter": "none", "sample_rate": 16000,
        "window_seconds": 5.0, "training_data": ["made-up tones", "made-up noise", "made-up speech"],
        "size_bytes": size, "licence": "cc-by-4.0", "problem": None,
    }  # fmt: skip


def test_figures_of_one_example_a_class_are_shown_whether_task_or_metric_tells_and_names_stay_whole(folder):
    figure = '    - {{type: accuracy, value: {}, name: "accuracy (%), {}concat, logistic regression"}}\n'
    text = (card := folder / "README.md").read_text()
    before, after = text.split("---\n\n# tiny")
    card.write_text(f"{before}{figure.format(90.5, '')}---\n\n# tiny{after}")  # of five examples, in older cards
    assert "few-shot    5-way 1-shot: bells 63.25\n" in models().output
    said = "5-way classification"
    before = before.partition("    - {type")[0].replace("5-way 1-shot classification", said)
    metrics = figure.format(90.5, "5-way 5-shot, ") + figure.format(63.25, "5-way 1-shot, ")
    card.write_text(f"{before}{metrics}---\n\n# tiny{after}")
    assert "few-shot    5-way 1-shot: bells 63.25\n" in models().output
    names = [f"a-data-set-of-sounds-{i}" for i in range(9)]
    card.write_text(text.replace("made-up tones, made-up noise, made-up speech", ", ".join(names)))
    assert set(names) <= {word.strip(",") for word in models("tiny").output.split()}


def test_one_model_with_its_card_and_one_that_is_not_here(folder, monkeypatch):
    for given in ("tiny", folder):
        output = models(given).output
        for text in ("cc-by-4.0", "16000 Hz, windows of 5 s", "made-up speech", "5-way 1-shot: bells 63.25"):
            assert text in output
        assert output.rstrip().endswith("# tiny\n\nA card for tests.")
    assert json.loads(models("tiny", "--json").output)["card"].endswith("A card for tests.")
    absent = models("teeny")
    assert absent.exit_code == 3
    assert "'teeny': neither a bundled" in absent.output and "Models here: tiny" in absent.output
    monkeypatch.setattr(hub, "bundled", dict)
    assert models().output == "no models; get one with `mtslvr download org/name`\n"
    assert models("--json").output == "[]\n"


def test_cards_and_configs_that_are_none_are_listed_with_their_problem(folder):
    code = "license: !!python/object/apply:os.system ['touch trace']"
    for block in ("license: [unclosed", "- a list", code, "model-index:\n- results: [{}]"):
        (folder / "README.md").write_text(f"---\n{block}\n---\n# x\n")
        [row] = json.loads(models("--json").output)
        said = rf"{folder / 'README.md'}: not a model card \(.*\); correct the YAML between the two"
        assert re.match(said, row["problem"]) and row["dims"]["concat"] == 8  # usable all the same
    assert not Path("trace").exists()
    (folder / "README.md").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(CheckpointError, match=r"README\.md: 1048577 bytes; a model card has at most 1048576"):
        registry.read_card(folder)
    (folder / "README.md").unlink()
    assert registry.read_card(folder) == registry.Card()
    (folder / "config.json").write_text("{}")
    [row] = json.loads(models("--json").output)
    assert "no key 'format_version'" in row["problem"] and row["dims"] == {} and row["adapter"] is None
    assert "no key 'format_version'" in " ".join(models().output.split())


def test_cards_cannot_print_what_a_terminal_obeys_or_without_end(folder):
    data, letters = f"[{'x' * 5000}, 7, [nested], {{a: b}}]", "abcdefghijklmnopqrstu"
    bomb = "a: &a x\n" + "\n".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise(letters))
    text = f'---\nlicense: "\\e[31mmit\\a"\ndatasets: {data}\n{bomb}\nlibrary_name: *u\n---\n'
    (folder / "README.md").write_text(text + "body \x1b]0;für\x07 end\n", encoding="utf-8")
    card = registry.read_card(folder)
    assert (card.licence, card.library, card.text) == ("[31mmit", "", "body ]0;für end")
    assert card.training_data == ("x" * 200 + " ...", "7")
    assert len(models("tiny").output) < 2000


def test_push_prints_the_line_that_publishes_and_wants_a_whole_card_and_a_repository_id(folder):
    (folder / "notes.txt").write_text("mine")
    folder = folder.rename(folder.with_name("my tiny"))
    result = run("push", folder, "org/name", "--private")
    assert result.exit_code == 0 and "nothing was sent" in result.stderr
    *listed, line = result.stdout.splitlines()
    assert [name.split()[0] for name in listed] == ["config.json", "model.safetensors", "README.md"]
    included = "--include config.json --include model.safetensors --include README.md"
    assert line == f"hf upload org/name '{folder}' . {included} --private"
    card = (folder / "README.md").read_text()
    for changed, missing in [
        (card.replace("license: cc-by-4.0\n", ""), "a licence (license:)"),
        (card.replace("library_name: mtslvr", "library_name: timm"), "library_name: mtslvr"),
        (card.replace("datasets:", "data:"), "the training data (datasets:)"),
        (card.replace("model-index:", "other-index:"), "measured results (model-index:)"),
        (card.replace("# tiny\n\nA card for tests.\n", ""), "a text"),
        (CONVERTED_CARD, "a licence (license:); the training data (datasets:); measured results (model-index"),
    ]:
        (folder / "README.md").write_text(changed)
        result = run("push", folder, "org/name")
        assert result.exit_code == 2 and "hf upload" not in result.output
        assert f"README.md: the model card lacks {missing}" in result.output
    for repo in ("name", "org/../name", "org/na me"):
        result = run("push", folder, "--", repo)  # before the folder is looked at
        assert result.exit_code == 2 and f"Error: {repo!r}: not a repository id (" in result.output
