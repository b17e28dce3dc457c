"""Features chosen by examples, and the classifier that is made with them."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mtslvr.classify import Classifier
from mtslvr.errors import ConfigError
from mtslvr.run.table import EmbeddingTable

SETTINGS = {"features": "concat", "layer": "head", "model_sha256": "0", "window_seconds": 1.0, "pool": "none"}


def table(n=60, informative=0, seed=0, classes=3, rows=None, names=None):
    """Rows of two halves, one of which tells the classes; each row from a recording of its own."""
    labels = np.arange(n) % classes
    if rows is None:
        rows = np.random.default_rng(seed).normal(size=(2, n, 8)).transpose(1, 0, 2).reshape(n, 16)
        rows[np.arange(n), 8 * informative + labels] += 3
    names = names or tuple(f"{i}.wav" for i in range(n))
    found = EmbeddingTable(rows.astype(np.float32), names, np.zeros(n), np.ones(n), dict(SETTINGS))
    return found, [f"class {k}" for k in labels]


def test_the_half_that_tells_classes_apart_is_chosen_and_sounds_of_another_kind_are_none_of_them():
    classifier, (fresh, labels) = Classifier.fit(*table()), table(seed=1)
    assert classifier.share >= 0.75 and len(classifier.figures["candidates"]) == 5
    assert Classifier.fit(*table(informative=1)).share <= 0.25
    probabilities = classifier.probabilities(fresh.embeddings, reject=False)
    assert np.mean([f"class {i}" for i in probabilities.argmax(axis=1)] == np.array(labels)) > 0.8
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert classifier.probabilities(fresh.embeddings).any(axis=1).mean() > 0.8
    fresh.embeddings[:, :8] = np.roll(fresh.embeddings[:, :8], 4, axis=1)  # what tells the classes is elsewhere
    assert classifier.probabilities(fresh.embeddings).any(axis=1).mean() < 0.3


def test_copies_of_a_clip_say_nothing_when_recordings_are_held_out():
    """Rows of one recording on both sides would make even pure noise look learnable."""
    rows = np.repeat(np.random.default_rng(0).normal(size=(12, 16)), 5, axis=0)
    copies = table(rows=rows, names=tuple(f"{i // 5}.wav" for i in range(60)))[0]
    figures = Classifier.choose(copies, [f"class {i // 5 % 2}" for i in range(60)])
    assert max(found["accuracy"] for found in figures["candidates"]) < 0.9


def test_where_nothing_is_to_choose_the_most_even_mixture_is_chosen():
    figures = Classifier.choose(*table(n=3))
    assert figures["features"] == "concat" and "nothing can be measured" in figures["reason"]
    rows, labels = table()
    rows.embeddings[:] = np.eye(3, 16)[[int(label[-1]) for label in labels]]
    rows.embeddings[:, 8:] = rows.embeddings[:, :8]
    figures = Classifier.choose(rows, labels)
    assert figures["features"] == "concat" and figures["reason"].startswith("log loss 0.000 of examples held out")


@pytest.mark.parametrize(("seed", "alone"), [(20, True), (15, False)])
def test_one_embedding_alone_is_chosen_where_no_mixture_is_better_by_a_standard_error(seed, alone):
    figures = Classifier.choose(*table(n=16, classes=2, seed=seed))
    loss = {found["features"]: found["log_loss"] for found in figures["candidates"]}
    assert min(loss.values()) < loss["invariant"] < loss["variant"]  # a mixture has the lowest loss
    assert (figures["features"] == "invariant") == figures["reason"].startswith("one embedding alone") == alone


@pytest.mark.parametrize("name", ["class 0", "Background", "_noise"])
def test_a_row_far_from_all_examples_is_none_of_the_classes_and_negative_ones_are_not_labelled(name):
    rows, labels = table()
    classifier = Classifier.fit(rows, [name if label == "class 0" else label for label in labels])
    expected = (*(["class 0"] if name == "class 0" else []), "class 1", "class 2")
    assert classifier.positive == expected and (classifier.classes[-1] == name) is (name != "class 0")
    opposite, positive = -classifier.means.mean(axis=0, keepdims=True), len(expected)
    assert not classifier.probabilities(opposite)[:, :positive].any()
    assert classifier.probabilities(opposite, reject=False)[:, :positive].any()


def test_every_example_is_held_out_whose_class_has_another_recording():
    rows, labels = table(n=41)
    labels = ["rare" if i in (0, 20) else "alone" if i == 40 else label for i, label in enumerate(labels)]
    assert sum(map(sum, Classifier.choose(rows, labels)["confusion"])) == 40


def test_classes_count_alike_however_many_examples_they_have():
    rows, labels = table()
    few = [i for i, label in enumerate(labels) if label != "class 1" or i < 6]
    part, _ = table(n=len(few), rows=rows.embeddings[few])
    fresh, true = table(n=90, seed=2)
    found = Classifier.fit(part, [labels[i] for i in few]).probabilities(fresh.embeddings, reject=False).argmax(axis=1)
    assert np.mean(found[np.array(true) == "class 1"] == 1) > 0.5


def test_a_saved_classifier_gives_the_same_and_another_file_is_none(tmp_path):
    classifier, file, rows = Classifier.fit(*table()), tmp_path / "birds.mtslvr", table(seed=3)[0].embeddings
    classifier.save(file)
    (tmp_path / "plain").write_bytes(b"not safetensors")
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode  # colleagues may read it
    again = Classifier.load(file)
    np.testing.assert_array_equal(again.probabilities(rows), classifier.probabilities(rows))
    assert again.settings == classifier.settings and again.figures == classifier.figures
    assert repr(again) == repr(classifier)
    assert repr(again).startswith("Classifier(class 0, class 1, class 2; ") and repr(again).endswith("; 60 examples)")
    for name in ("plain", "missing"):
        with pytest.raises(ConfigError, match=f"{name}: not a classifier"):
            Classifier.load(tmp_path / name)
    (tmp_path / "later").write_bytes(file.read_bytes().replace(rb"\"format_version\": 1", rb"\"format_version\": 2"))
    with pytest.raises(ConfigError, match="plain: is there and is no classifier"):
        classifier.save(tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"later: in format 2, and this reads 1; upgrade mtslvr$"):
        Classifier.load(tmp_path / "later")


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "classes": [[], ["up"], "abcd", [1, 2, 3]],
        "share": ["x", 7, True],
        "temperature": [None, 0, float("nan")],
        "least_similarity": ["x"],
        "figures": [None, {}],
        "settings": [[], {"window_seconds": "x"}, {"layer": 3}, {"model": 3}, {"encoder": {"frontend": 3}}],
        "format_version": ["1", None],
        "weights": [np.zeros(17), np.zeros((16, 3)), np.full((17, 3), np.nan)],
        "means": [np.zeros((3, 15)), np.full((3, 16), np.inf)],
        "silence": [np.full(16, np.nan)],
    }.items(),
)
def test_a_damaged_classifier_is_told_in_one_sentence(tmp_path, name, values):
    path = tmp_path / "x.mtslvr"
    Classifier.fit(*table(n=6)).save(path)
    with safe_open(path, "numpy") as file:
        [(key, header)] = file.metadata().items()
    arrays, about = load_file(path), json.loads(header)
    for value in values:
        changed = {name: value.astype(np.float32)} if name in arrays else {}
        save_file({**arrays, **changed}, path, {key: json.dumps(about if changed else {**about, name: value})})
        with pytest.raises(ConfigError, match=r"x\.mtslvr: a damaged classifier \(.*\); make it anew"):
            Classifier.load(path)


def test_what_cannot_be_learned_from_or_judged_is_said():
    rows, labels = table()
    classifier, broken = Classifier.fit(rows, labels), table()[0]
    broken.embeddings[3] = np.nan
    for call, told in (
        (lambda: Classifier.fit(rows, ["owl"] * 60), "examples of 'owl' only"),
        (lambda: Classifier.fit(broken, labels), "1 of 60 embeddings are no numbers"),
        (lambda: Classifier.fit(rows, ["owl", "fox"]), "2 labels for 60 rows of embeddings; give a list"),
        (lambda: classifier.probabilities(rows.embeddings[:, :3]), r"shape \(60, 3\), and this .* takes \(n, 16\)"),
        (lambda: classifier.probabilities(broken.embeddings), "rows: 1 of 60 embeddings are no numbers"),
        (lambda: classifier.predict("a.wav"), r"files='a\.wav': is no list of paths"),
        (lambda: classifier.predict(None), "files=None: is no list of paths"),
        (lambda: classifier.predict_windows((np.ones(9), 16000)), "file of type tuple: give the path"),
        (lambda: classifier.predict_windows("a.wav", {"threshold": 0.5}), "config of type dict: give a mtslvr"),
        (lambda: classifier.predict(["a.wav"], threshold=2), "threshold=2: must be a probability"),
        (lambda: Classifier.fit(["a.wav", "b.wav"], [0, 1]), "0 is no name of a class"),
        (lambda: Classifier.fit([np.ones(3)], ["a"]), "ndarray is no path"),
        (lambda: classifier.check_settings({**SETTINGS, "channel": 1}, "x"), "made with channel=1, .* with mix; embed"),
    ):
        with pytest.raises(ConfigError, match=told):
            call()
    classifier.check_settings({**SETTINGS, "channel": "mix"}, "x")  # which embeddings had before it was a setting
