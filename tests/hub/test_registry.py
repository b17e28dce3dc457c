"""What `mtslvr models` tells, and what `mtslvr push` wants to be told; nothing here needs a hub."""

import dataclasses
import json
import shutil

import pytest
from click.testing import CliRunner

from mtslvr import hub, registry
from mtslvr.cli.main import main
from mtslvr.config import EncoderConfig
from mtslvr.errors import CheckpointError, ConfigError

SUMS = {"config.json": "1" * 64, "model.safetensors": "2" * 64}
ENTRY = {"repo": "org/name", "commit": "a" * 40, "sha256": SUMS, "config": EncoderConfig(), "size": 28_000_000}


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the checkpoint, which is also the one that is bundled."""
    copied = tmp_path / "tiny"
    shutil.copytree(made, copied)
    for module in (registry, hub):  # `hub` has its own name for it
        monkeypatch.setattr(module, "bundled", lambda: {"tiny": copied})
    monkeypatch.setattr(registry, "REGISTRY", {})
    return copied


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "no cache"


def edit_card(folder, old, new):
    path = folder / "README.md"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# Entries


def test_an_entry_pins_a_whole_commit_and_both_files():
    registry.Registered(**ENTRY)
    for commit in ("main", "a" * 39, "A" * 40, "../" + "a" * 37):
        with pytest.raises(ConfigError, match=r"org/name: commit='.*': must be all 40 hexadecimal digits"):
            registry.Registered(**{**ENTRY, "commit": commit})
    for name in SUMS:
        for sums in ({**SUMS, name: "2" * 63}, {k: v for k, v in SUMS.items() if k != name}):
            with pytest.raises(ConfigError, match=rf"org/name: sha256 of {name}=.*: must be 64 hexadecimal digits"):
                registry.Registered(**{**ENTRY, "sha256": sums})


def test_every_entry_of_this_version_is_pinned_and_none_hides_a_bundled_name():
    for name, entry in registry.REGISTRY.items():
        assert len(entry.commit) == 40 and set(SUMS) <= set(entry.sha256)
        assert name not in registry.bundled()


# The table


def test_the_table_has_every_column(folder, cache, monkeypatch):
    entry = registry.Registered(**ENTRY, card=registry.Card("mit", ("one", "two", "three")))
    monkeypatch.setattr(registry, "REGISTRY", {"large": entry})
    result = run("models", "--cache-dir", cache)
    assert result.exit_code == 0, result.output
    heading, tiny, large, blank, _, hint = result.output.splitlines()
    assert (
        heading.split("  ")[0] == "NAME" and heading.endswith("FEW-SHOT") and "mtslvr models NAME" in hint and not blank
    )
    size = f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB"
    columns = [cell for cell in tiny.split("  ") if cell]
    assert [cell.strip() for cell in columns] == [
        "tiny", "bundled", "none", "invariant 8, variant 8, concat 8", size, "cc-by-4.0",
        "made-up tones, made-up noise and 1 more", "bells 63.25",
    ]  # fmt: skip
    for text in ("large", "registered, not downloaded", "parallel", "concat 1000", "28.0 MB", "mit", "not told"):
        assert text in large


@pytest.mark.parametrize("width", [40, 80, 400])
def test_a_terminal_gets_what_fits(folder, cache, width):
    """Paragraphs where a line a model would be broken anywhere; nothing is lost."""
    from mtslvr.cli.models import details, table

    [row] = registry.models(cache)
    listed, shown = table([row], width).splitlines(), details(row, width).splitlines()
    assert (listed[0] == "tiny") == (width < 400)
    words = " ".join(" ".join(listed).split())
    for text in ("bundled", "invariant 8, variant 8, concat 8", "cc-by-4.0", "made-up noise and 1 more", "bells 63.25"):
        assert text in words
    whole = ("folder", "accuracy")  # a path and a figure stay on one line, however long
    assert all(len(line) <= width for line in (*listed, *shown) if not line.strip().startswith(whole))
    assert any(line.endswith(str(folder)) for line in shown)


def test_json_has_the_same_and_all_figures(folder, cache):
    [row] = json.loads(run("models", "--json", "--cache-dir", cache).output)
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
            {
                "dataset_id": "bells",
                "dataset": "Bells, five kinds",
                "task": "5-way 1-shot classification",
                "metric": f"accuracy (%), {features}, logistic regression",
                "value": value,
            }
            for features, value in (("invariant", 61.5), ("concat", 63.25))
        ],
        "size_bytes": (folder / "model.safetensors").stat().st_size,
        "licence": "cc-by-4.0",
        "problem": None,
    }


@pytest.mark.parametrize("how", ["name", "path"])
def test_one_model_with_its_card(folder, cache, how):
    given = "tiny" if how == "name" else folder
    result = run("models", given, "--cache-dir", cache)
    assert result.exit_code == 0, result.output
    for text in ("cc-by-4.0", "16000 Hz, windows of 5 s", "made-up speech", "Bells, five kinds (bells), 5-way 1-shot"):
        assert text in result.output
    assert [line.split()[-1] for line in result.output.splitlines() if "logistic" in line] == ["61.5", "63.25"]
    assert result.output.rstrip().endswith("# tiny\n\nA card for tests.")
    assert json.loads(run("models", given, "--json", "--cache-dir", cache).output)["card"].endswith("A card for tests.")


def test_a_model_that_is_not_here(folder, cache):
    result = run("models", "teeny", "--cache-dir", cache)
    assert result.exit_code == 3
    assert "'teeny': neither a bundled" in result.output and "Models here: tiny" in result.output


def test_nothing_at_all(folder, cache, monkeypatch):
    for module in (registry, hub):
        monkeypatch.setattr(module, "bundled", dict)
    assert run("models", "--cache-dir", cache).output == "no models; get one with `mtslvr download org/name`\n"
    assert run("models", "--json", "--cache-dir", cache).output == "[]\n"


def test_a_cache_that_is_a_file_or_holds_other_things(folder, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "odd" / "models--a--b" / "snapshots").mkdir(parents=True)
    (tmp_path / "odd" / "notes.txt").write_text("")
    for cache in ("file", "odd"):
        [row] = json.loads(run("models", "--json", "--cache-dir", tmp_path / cache).stdout)
        assert row["name"] == "tiny"


def test_a_broken_checkpoint_is_listed_with_its_problem(folder, cache):
    (folder / "config.json").write_text("{}")
    [row] = json.loads(run("models", "--json", "--cache-dir", cache).output)
    assert "no key 'format_version'" in row["problem"] and row["dims"] == {} and row["adapter"] is None
    _, line, _, problem, *_ = run("models", "--cache-dir", cache).output.splitlines()
    assert len(line) < 150 and problem.startswith("tiny: ") and "no key 'format_version'" in problem


# Cards from anywhere


def test_no_card_is_an_empty_one(folder, cache):
    (folder / "README.md").unlink()
    assert registry.read_card(folder) == registry.Card()
    assert "none given" in run("models", "--cache-dir", cache).output


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(20)
)


@pytest.mark.parametrize(
    "block",
    [
        "license: [unclosed",
        "- a list",
        "just text",
        "license: !!python/object/apply:os.system ['touch trace']",
        "1: 2",
        "model-index: 3",
        "model-index:\n- results: [{}]",
        "[" * 5000,
        "content: 1\nself: 2",
    ],
)
def test_cards_that_are_none(folder, cache, block):
    (folder / "README.md").write_text(f"---\n{block}\n---\n# x\n")
    with pytest.raises(CheckpointError, match=r"README\.md: not a model card \(.*\); correct the YAML between the two"):
        registry.read_card(folder)
    [row] = json.loads(run("models", "--json", "--cache-dir", cache).output)
    assert "not a model card" in row["problem"] and row["dims"]["concat"] == 8  # usable all the same
    assert not (folder / "trace").exists()


def test_cards_cannot_print_what_a_terminal_obeys_or_without_end(folder, cache):
    data = f"[{'x' * 5000}, 7, [nested], {{a: b}}]"
    text = f'---\nlicense: "\\e[31mmit\\a"\ndatasets: {data}\n{BOMB}\nlibrary_name: *u\n---\n'
    (folder / "README.md").write_text(text + "body \x1b]0;title\x07 end\n")
    card = registry.read_card(folder)
    assert card.licence == "[31mmit"
    assert card.training_data == ("x" * 200, "7") and card.library == ""
    assert card.text == "body ]0;title end"
    assert len(run("models", "tiny", "--cache-dir", cache).output) < 2000


@pytest.mark.parametrize("value", [".nan", ".inf", "0x" + "f" * 9000, "[1]", "true", "x: y"])
def test_odd_figures_become_no_number(folder, cache, value):
    edit_card(folder, "value: 61.5", f"value: {value}" if ":" not in value else f"value: {{{value}}}")
    rows = json.loads(run("models", "--json", "--cache-dir", cache).output)
    assert rows[0]["problem"] or rows[0]["few_shot"][0]["value"] == ""


def test_a_card_too_large_or_not_text(folder):
    (folder / "README.md").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(CheckpointError, match=r"README\.md: 1048577 bytes; a model card has at most 1048576"):
        registry.read_card(folder)
    (folder / "README.md").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(CheckpointError, match=r"README\.md: not a model card \(UnicodeDecodeError"):
        registry.read_card(folder)


# Before publishing


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("license: cc-by-4.0\n", "", "a licence (license:)"),
        ("library_name: mtslvr", "library_name: timm", "library_name: mtslvr"),
        ("- made-up tones\n- made-up noise\n- made-up speech\n", "", "the training data (datasets:)"),
        ("model-index:", "other-index:", "measured results (model-index:)"),
        ("# tiny\n\nA card for tests.\n", "", "a text"),
    ],
)
def test_push_wants_a_whole_card(folder, old, new, missing):
    edit_card(folder, old, new)
    result = run("push", folder, "org/name")
    assert result.exit_code == 3
    assert f"README.md: the model card lacks {missing}. Nothing is published" in result.output


@pytest.mark.parametrize("name", sorted(registry.bundled()))
def test_a_bundled_folder_is_what_a_repository_holds(name, cache):
    """Exactly the three files, a card that says enough, and nothing that `push` would leave."""
    folder = registry.bundled()[name]
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    result = run("push", folder, f"org/{name}")
    assert result.exit_code == 0, result.output
    assert "nothing was sent" in result.stdout and result.stderr == ""
    [row] = [row for row in registry.models(cache) if row.name == name]
    assert not row.problem and row.source == "bundled" and row.card.figures


def test_push_of_a_converted_official_checkpoint_is_refused(folder):
    """Its card says that it has no licence."""
    from mtslvr.cli.convert import model_card

    (folder / "README.md").write_text(model_card("a.pt", {}))
    result = run("push", folder, "org/name", "--publish")
    assert result.exit_code == 3 and "lacks a licence (license:)" in result.output


def test_push_without_a_card_or_a_checkpoint(folder, tmp_path):
    (folder / "README.md").unlink()
    assert "the model card lacks a licence" in run("push", folder, "org/name").output
    result = run("push", tmp_path, "org/name")
    assert result.exit_code == 3 and "config.json: no such file" in result.output


@pytest.mark.parametrize("repo", ["name", "../name", "org/../name", "org/name/more", "org/na me", "-/-", "org--x/name"])
def test_push_wants_a_repository_id(folder, repo):
    result = run("push", folder, "--", repo)
    assert result.exit_code == 3
    assert f"Error: {repo!r}: not a repository id (" in result.output and "give 'org/name'" in result.output


def test_push_names_what_it_leaves(folder):
    (folder / "notes.txt").write_text("mine")
    result = run("push", folder, "org/name")
    assert result.exit_code == 0 and "not sent: notes.txt" in result.stderr


def test_models_are_frozen(folder):
    with pytest.raises(dataclasses.FrozenInstanceError):
        registry.read_model("tiny", "bundled", folder).name = "other"
