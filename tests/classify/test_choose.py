"""Features chosen by examples, and the classifier that is made with them."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from mtslvr.classify import Classifier
from mtslvr.errors import ConfigError
from mtslvr.run.table import EmbeddingTable

SETTINGS = {"features": "concat", "layer": "head", "model_sha256": "0", "window_seconds": 1.0, "pool": "none"}


def table(n=60, informative=0, seed=0, classes=3):
    """Rows of two halves, one of which tells the classes; each row from a recording of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    halves = [rng.normal(size=(n, 8)) for _ in range(2)]
    halves[informative][np.arange(n), labels] += 3
    rows = np.concatenate(halves, axis=1).astype(np.float32)
    spans = np.tile([0.0, 1.0], (n, 1))
    names = tuple(f"{i}.wav" for i in range(n))
    return EmbeddingTable(rows, names, spans[:, 0], spans[:, 1], dict(SETTINGS)), [f"class {k}" for k in labels]


@pytest.mark.parametrize("half", [0, 1])
def test_the_half_that_tells_the_classes_is_chosen(half):
    classifier = Classifier.fit(*table(informative=half))
    assert abs(classifier.share - (1 - half)) <= 0.25
    assert len(classifier.figures["candidates"]) == 5


def test_new_rows_are_told_apart():
    classifier = Classifier.fit(*table())
    fresh, labels = table(seed=1)
    probabilities = classifier.probabilities(fresh.embeddings, reject=False)
    assert np.mean([classifier.classes[i] for i in probabilities.argmax(axis=1)] == np.array(labels)) > 0.8
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_copies_of_a_clip_say_nothing_when_recordings_are_held_out():
    """Rows of one recording on both sides would make even pure noise look learnable."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(12, 16)), 5, axis=0).astype(np.float32)
    names = tuple(f"{i}.wav" for i in np.repeat(np.arange(12), 5))
    labels = [f"class {i}" for i in np.repeat(np.arange(12) % 2, 5)]
    zeros = np.zeros(60)
    made = Classifier.fit(EmbeddingTable(rows, names, zeros, zeros + 1, dict(SETTINGS)), labels)
    assert max(c["accuracy"] for c in made.figures["candidates"]) < 0.9


def test_of_features_that_do_equally_well_the_most_even_mixture_is_chosen():
    rows, labels = table()
    rows.embeddings[:] = np.eye(3, 16)[[int(label[-1]) for label in labels]]
    rows.embeddings[:, 8:] = rows.embeddings[:, :8]
    figures = Classifier.choose(rows, labels)
    assert figures["features"] == "concat" and figures["reason"].endswith("of equal ones the most even mixture")


@pytest.mark.parametrize(("seed", "alone"), [(20, True), (15, False)])
def test_one_embedding_alone_is_chosen_where_no_mixture_is_better_by_a_standard_error(seed, alone):
    figures = Classifier.choose(*table(n=16, classes=2, seed=seed))
    loss = {found["features"]: found["log_loss"] for found in figures["candidates"]}
    assert min(loss.values()) < loss["invariant"] < loss["variant"]  # a mixture has the lowest loss
    assert (figures["features"] == "invariant") == figures["reason"].startswith("one embedding alone") == alone


def test_one_example_a_class_leaves_nothing_to_choose():
    classifier = Classifier.fit(*table(n=3))
    assert classifier.figures["features"] == "concat"
    assert "nothing can be measured" in classifier.figures["reason"]


@pytest.mark.parametrize("first", ["class 0", "background"])
def test_a_row_far_from_all_examples_is_none_of_the_classes(first):
    rows, labels = table()
    classifier = Classifier.fit(rows, [first if label == "class 0" else label for label in labels])
    opposite = -classifier.means.mean(axis=0, keepdims=True)
    positive = len(classifier.positive)
    assert not classifier.probabilities(opposite)[:, :positive].any()
    assert classifier.probabilities(opposite, reject=False)[:, :positive].any()


def test_sounds_of_another_kind_are_none_of_the_classes():
    classifier = Classifier.fit(*table())
    known, other = (table(seed=1)[0].embeddings.copy() for _ in range(2))
    other[:, :8] = np.roll(other[:, :8], 4, axis=1)  # what tells the classes is elsewhere
    assert classifier.probabilities(known).any(axis=1).mean() > 0.8
    assert classifier.probabilities(other).any(axis=1).mean() < 0.3


def test_every_example_is_held_out_whose_class_has_another_recording():
    rows, labels = table(n=41)
    labels = ["rare" if i in (0, 20) else "alone" if i == 40 else label for i, label in enumerate(labels)]
    assert sum(map(sum, Classifier.choose(rows, labels)["confusion"])) == 40


def test_negative_examples_are_no_class_to_label():
    rows, labels = table()
    for name in ("Background", "_noise"):
        classifier = Classifier.fit(rows, [name if label == "class 0" else label for label in labels])
        assert classifier.positive == ("class 1", "class 2")
        assert classifier.classes[-1] == name


def test_classes_count_alike_however_many_examples_they_have():
    rows, labels = table(n=60)
    few = [i for i, label in enumerate(labels) if label != "class 1" or i < 6]
    part = EmbeddingTable(
        rows.embeddings[few], tuple(rows.paths[i] for i in few), rows.start[few], rows.end[few], rows.settings
    )
    classifier = Classifier.fit(part, [labels[i] for i in few])
    fresh, true = table(n=90, seed=2)
    found = classifier.probabilities(fresh.embeddings, reject=False).argmax(axis=1)
    assert np.mean(found[np.array(true) == "class 1"] == 1) > 0.5


def test_a_saved_classifier_gives_the_same(tmp_path):
    classifier = Classifier.fit(*table())
    classifier.save(tmp_path / "birds.mtslvr")
    (tmp_path / "plain").touch()
    assert (tmp_path / "birds.mtslvr").stat().st_mode == (tmp_path / "plain").stat().st_mode  # colleagues may read it
    again = Classifier.load(tmp_path / "birds.mtslvr")
    rows = table(seed=3)[0].embeddings
    np.testing.assert_array_equal(again.probabilities(rows), classifier.probabilities(rows))
    assert again.settings == classifier.settings
    assert again.figures == classifier.figures
    assert repr(again) == repr(classifier)
    assert repr(again).startswith("Classifier(class 0, class 1, class 2; ") and repr(again).endswith("; 60 examples)")


def test_another_file_is_no_classifier(tmp_path):
    (tmp_path / "x.mtslvr").write_bytes(b"not safetensors")
    with pytest.raises(ConfigError, match=r"x\.mtslvr: not a classifier"):
        Classifier.load(tmp_path / "x.mtslvr")
    with pytest.raises(ConfigError, match=r"missing\.mtslvr: not a classifier"):
        Classifier.load(tmp_path / "missing.mtslvr")


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "classes": [[], ["up"], "abcd", [1, 2, 3]],
        "share": ["x", None, 7, True],
        "temperature": ["x", -1, 0, float("nan")],
        "least_similarity": ["x", None],
        "figures": [None, {}, []],
        "settings": [
            [], None, "x", {"window_seconds": "x"}, {"hop_seconds": None}, {"layer": "x"}, {"layer": 3},
            {"features": None}, {"model": 3}, {"encoder": {"frontend": 3}},
        ],
        "format_version": ["1", None],
        "weights": [np.zeros(17), np.zeros((16, 3)), np.full((17, 3), np.nan)],
        "means": [np.zeros((3, 15)), np.full((3, 16), np.inf)],
        "silence": [np.full(16, np.nan)],
    }.items(),
)  # fmt: skip
def test_a_damaged_classifier_is_told_in_one_sentence(tmp_path, name, values):
    path = tmp_path / "x.mtslvr"
    Classifier.fit(*table(n=6)).save(path)
    with safe_open(path, "numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # a file is no mapping
        [(key, header)] = file.metadata().items()
    about = json.loads(header)
    for value in values:
        changed = {name: value.astype(np.float32)} if name in arrays else {}
        save_file({**arrays, **changed}, path, {key: json.dumps(about if changed else {**about, name: value})})
        with pytest.raises(ConfigError, match=r"x\.mtslvr: a damaged classifier \(.*\); make it anew"):
            Classifier.load(path)


def test_what_cannot_be_learned_from_is_said():
    rows, labels = table()
    with pytest.raises(ConfigError, match="examples of 'owl' only"):
        Classifier.fit(rows, ["owl"] * len(labels))
    broken = table()[0]
    broken.embeddings[3] = np.nan
    with pytest.raises(ConfigError, match="1 of 60 embeddings are no numbers"):
        Classifier.fit(broken, labels)
    with pytest.raises(ConfigError, match="2 labels for 60 rows of embeddings; give a list"):
        Classifier.fit(rows, ["owl", "fox"])
    with pytest.raises(ConfigError, match=r"shape \(4, 3\), and this classifier takes \(n, 16\)"):
        Classifier.fit(rows, labels).probabilities(np.zeros((4, 3)))
    with pytest.raises(ConfigError, match="rows: 1 of 2 embeddings are no numbers"):
        Classifier.fit(rows, labels).probabilities(np.array([[1.0] * 16, [np.inf] * 16]))


def test_embeddings_made_otherwise_are_refused():
    classifier = Classifier.fit(*table())
    classifier.check_settings(SETTINGS, "night.npz")
    with pytest.raises(ConfigError, match=r"night\.npz: made with window_seconds=5\.0, and the classifier with 1\.0"):
        classifier.check_settings({**SETTINGS, "window_seconds": 5.0}, "night.npz")
    classifier.check_settings({**SETTINGS, "channel": "mix"}, "night.npz")
    with pytest.raises(ConfigError, match=r"night\.npz: made with channel=1, and the classifier with mix"):
        classifier.check_settings({**SETTINGS, "channel": 1}, "night.npz")
