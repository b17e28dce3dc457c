"""What `mtslvr models` tells, and what `mtslvr push` wants to be told; nothing here needs a hub."""

import json
import shlex
import shutil

import pytest
from click.testing import CliRunner

from mtslvr.cli.main import main
from mtslvr.cli.models import CONVERTED_CARD
from mtslvr.errors import CheckpointError
from mtslvr.models import hub, registry

pytestmark = pytest.mark.usefixtures("narrow_encoders")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def models(tmp_path):
    """Runs `mtslvr models` where the hub's cache is empty."""
    return lambda *arguments: run("models", *arguments, "--cache-dir", tmp_path / "no cache")


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the checkpoint, which is also the one that is bundled."""
    copied = tmp_path / "tiny"
    shutil.copytree(made, copied)
    monkeypatch.setattr(hub, "bundled", lambda: {"tiny": copied})
    return copied


# The table


def test_the_list_has_all_facts_in_100_columns(folder, models):
    result = models()
    assert result.exit_code == 0, result.output
    name, *lines, blank, _, hint = result.output.splitlines()
    assert name == "tiny" and not blank and "mtslvr models NAME" in hint and all(len(line) <= 100 for line in lines)
    size = f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB"
    assert [line[14:] for line in lines] == [
        "bundled", "none", "invariant 8, variant 8, concat 8", size, "cc-by-4.0",
        "made-up tones, made-up noise and 1 more", "bells 63.25",
    ]  # fmt: skip


def test_json_has_the_same_and_all_figures(folder, models):
    [row] = json.loads(models("--json").output)
    figures = [("invariant", 61.5), ("concat", 63.25)]
    bells = {"dataset_id": "bells", "dataset": "Bells, five kinds", "task": "5-way 1-shot classification"}
    assert row == {
        "name": "tiny",
        "source": "bundled",
        "folder": str(folder),
        "features": ["invariant", "variant", "concat"],
        "dims": {"invariant": 8, "variant": 8, "concat": 8},
        "adapter": "none",
        "sample_rate": 16000,
        "window_seconds": 5.0,
        "training_data": ["made-up tones", "made-up noise", "made-up speech"],
        "few_shot": [
            {**bells, "metric": f"accuracy (%), {features}, logistic regression", "value": value}
            for features, value in figures
        ],
        "size_bytes": (folder / "model.safetensors").stat().st_size,
        "licence": "cc-by-4.0",
        "problem": None,
    }


def test_one_model_with_its_card(folder, models):
    for given in ("tiny", folder):
        output = models(given).output
        for text in ("cc-by-4.0", "16000 Hz, windows of 5 s", "made-up speech", "Bells, five kinds (bells), 5-way 1-s"):
            assert text in output
        assert [line.split()[-1] for line in output.splitlines() if "logistic" in line] == ["61.5", "63.25"]
        assert output.rstrip().endswith("# tiny\n\nA card for tests.")
    assert json.loads(models("tiny", "--json").output)["card"].endswith("A card for tests.")


def test_models_that_are_not_here(folder, models, monkeypatch):
    result = models("teeny")
    assert result.exit_code == 3
    assert "'teeny': neither a bundled" in result.output and "Models here: tiny" in result.output
    monkeypatch.setattr(hub, "bundled", dict)
    assert models().output == "no models; get one with `mtslvr download org/name`\n"
    assert models("--json").output == "[]\n"


def test_a_broken_checkpoint_is_listed_with_its_problem(folder, models):
    (folder / "config.json").write_text("{}")
    [row] = json.loads(models("--json").output)
    assert "no key 'format_version'" in row["problem"] and row["dims"] == {} and row["adapter"] is None
    assert "no key 'format_version'" in " ".join(models().output.split())


# Cards from anywhere


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(20)
)


@pytest.mark.parametrize(
    "block",
    [
        "license: [unclosed",
        "- a list",
        "license: !!python/object/apply:os.system ['touch trace']",
        "model-index:\n- results: [{}]",
    ],
    ids=lambda block: block[:15],
)
def test_cards_that_are_none(folder, models, block):
    (folder / "README.md").write_text(f"---\n{block}\n---\n# x\n")
    with pytest.raises(CheckpointError, match=r"README\.md: not a model card \(.*\); correct the YAML between the two"):
        registry.read_card(folder)
    [row] = json.loads(models("--json").output)
    assert "not a model card" in row["problem"] and row["dims"]["concat"] == 8  # usable all the same
    assert not (folder / "trace").exists()


def test_cards_cannot_print_what_a_terminal_obeys_or_without_end(folder, models):
    data = f"[{'x' * 5000}, 7, [nested], {{a: b}}]"
    text = f'---\nlicense: "\\e[31mmit\\a"\ndatasets: {data}\n{BOMB}\nlibrary_name: *u\n---\n'
    (folder / "README.md").write_text(text + "body \x1b]0;title\x07 end\n")
    card = registry.read_card(folder)
    assert card.licence == "[31mmit"
    assert card.training_data == ("x" * 200 + " ...", "7") and card.library == ""
    assert card.text == "body ]0;title end"
    assert len(models("tiny").output) < 2000


def test_a_card_too_large_or_absent(folder):
    (folder / "README.md").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(CheckpointError, match=r"README\.md: 1048577 bytes; a model card has at most 1048576"):
        registry.read_card(folder)
    (folder / "README.md").unlink()
    assert registry.read_card(folder) == registry.Card()


# Before publishing


def test_push_prints_the_line_that_publishes(folder):
    (folder / "notes.txt").write_text("mine")
    moved = folder.rename(folder.with_name("my tiny"))
    result = run("push", moved, "org/name", "--private")
    assert result.exit_code == 0 and "nothing was sent" in result.stderr
    *listed, line = result.stdout.splitlines()
    names = ["config.json", "model.safetensors", "README.md"]
    assert [name.split()[0] for name in listed] == names
    included = [word for name in names for word in ("--include", name)]
    assert shlex.split(line) == ["hf", "upload", "org/name", str(moved), ".", *included, "--private"]


def test_push_wants_a_whole_card(folder):
    """The card of a converted official checkpoint says that it has no licence."""
    card = (folder / "README.md").read_text()
    for changed, missing in [
        (card.replace("license: cc-by-4.0\n", ""), "a licence (license:)"),
        (card.replace("library_name: mtslvr", "library_name: timm"), "library_name: mtslvr"),
        (card.replace("- made-up tones\n- made-up noise\n- made-up speech\n", ""), "the training data (datasets:)"),
        (card.replace("model-index:", "other-index:"), "measured results (model-index:)"),
        (card.replace("# tiny\n\nA card for tests.\n", ""), "a text"),
        (CONVERTED_CARD, "a licence (license:); the training data (datasets:); measured results (model-index"),
    ]:
        (folder / "README.md").write_text(changed)
        result = run("push", folder, "org/name")
        assert result.exit_code == 2 and "hf upload" not in result.output
        assert f"README.md: the model card lacks {missing}" in result.output


@pytest.mark.parametrize("repo", ["name", "org/../name", "org/na me"])
def test_push_wants_a_repository_id(folder, repo):
    result = run("push", folder, "--", repo)  # before the folder is looked at
    assert result.exit_code == 2
    assert f"Error: {repo!r}: not a repository id (" in result.output and "give 'org/name'" in result.output
