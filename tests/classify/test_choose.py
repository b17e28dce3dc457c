"""Features chosen by examples, and the classifier that is made with them."""

import dataclasses

import numpy as np
import pytest

from mtslvr import Classifier
from mtslvr.classify.classifier import fit_examples
from mtslvr.errors import ConfigError


@pytest.fixture
def figures(made):
    return lambda **how: fit_examples(made(**how)).figures


@pytest.mark.parametrize("half", [0, 1])
def test_the_half_that_tells_the_classes_is_chosen_and_new_rows_are_told_apart(made, half):
    classifier, fresh = fit_examples(made(informative=half)), made(seed=1, informative=half)
    assert abs(classifier.share - (1 - half)) <= 0.25 and len(classifier.figures["candidates"]) == 5
    probabilities = classifier.probabilities(fresh.embeddings, reject=False)
    assert np.mean([f"class {i}" for i in probabilities.argmax(axis=1)] == np.array(fresh.labels)) > 0.8
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_copies_of_a_clip_say_nothing_when_recordings_are_held_out(figures):
    """Rows of one recording on both sides would make even pure noise look learnable."""
    rows = np.repeat(np.random.default_rng(0).normal(size=(12, 16)), 5, axis=0)
    labels, recordings = [f"class {i // 5 % 2}" for i in range(60)], [f"{i // 5}.wav" for i in range(60)]
    found = figures(rows=rows, labels=labels, recordings=recordings)
    assert max(candidate["accuracy"] for candidate in found["candidates"]) < 0.9


def test_of_features_that_do_equally_well_the_most_even_mixture_is_chosen(figures):
    half = np.eye(3, 8)[np.arange(60) % 3]
    found = figures(rows=np.concatenate([half, half], axis=1))
    assert found["features"] == "concat" and found["reason"].endswith("of equal ones the most even mixture")


@pytest.mark.parametrize(("seed", "alone"), [(20, True), (15, False)])
def test_one_embedding_alone_is_chosen_where_no_mixture_is_better_by_a_standard_error(figures, seed, alone):
    found = figures(n=16, classes=2, seed=seed)
    loss = {candidate["features"]: candidate["log_loss"] for candidate in found["candidates"]}
    assert min(loss.values()) < loss["invariant"] < loss["variant"]  # a mixture has the lowest loss
    assert (found["features"] == "invariant") == found["reason"].startswith("one embedding alone") == alone


def test_one_example_a_class_leaves_nothing_to_choose(figures):
    found = figures(n=3)
    assert found["features"] == "concat" and "nothing can be measured" in found["reason"]


@pytest.mark.parametrize("name", ["class 0", "Background", "_noise"])
def test_a_row_far_from_all_examples_is_none_of_the_classes_and_negative_ones_are_not_labelled(made, name):
    classifier = fit_examples(made(labels=[name, "class 1", "class 2"] * 20))
    expected = (*(["class 0"] if name == "class 0" else []), "class 1", "class 2")
    assert classifier.positive == expected and (classifier.classes[-1] == name) is (name != "class 0")
    opposite, positive = -classifier.means.mean(axis=0, keepdims=True), len(expected)
    assert not classifier.probabilities(opposite)[:, :positive].any()
    assert classifier.probabilities(opposite, reject=False)[:, :positive].any()


def test_sounds_of_another_kind_are_none_of_the_classes(made):
    classifier, known, other = fit_examples(made()), made(seed=1).embeddings, made(seed=1).embeddings
    other[:, :8] = np.roll(other[:, :8], 4, axis=1)  # what tells the classes is elsewhere
    assert classifier.probabilities(known).any(axis=1).mean() > 0.8
    assert classifier.probabilities(other).any(axis=1).mean() < 0.3


def test_silence_is_none_of_the_classes(made):
    rows = made().embeddings
    classifier = fit_examples(dataclasses.replace(made(), silence=rows[0]))
    found = classifier.probabilities(rows, reject=False).any(axis=1)
    assert not found[0] and found[1:].all()


def test_every_example_is_held_out_whose_class_has_another_recording(figures):
    labels = ["rare" if i in (0, 20) else "alone" if i == 40 else f"class {i % 3}" for i in range(41)]
    assert sum(map(sum, figures(n=41, labels=labels)["confusion"])) == 40


def test_classes_count_alike_however_many_examples_they_have(made):
    every, fresh = made(), made(n=90, seed=2)
    few = [i for i in range(60) if i % 3 != 1 or i < 6]
    classifier = fit_examples(made(n=len(few), rows=every.embeddings[few], labels=[every.labels[i] for i in few]))
    found = classifier.probabilities(fresh.embeddings, reject=False).argmax(axis=1)
    assert np.mean(found[1::3] == 1) > 0.5


def test_a_saved_classifier_gives_the_same_and_another_file_is_none(made, tmp_path):
    classifier, file, rows = fit_examples(made()), tmp_path / "birds.mtslvr", made(seed=3).embeddings
    classifier.save(file)
    (tmp_path / "plain").write_bytes(b"not safetensors")
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode  # colleagues may read it
    again = Classifier.load(file)
    np.testing.assert_array_equal(again.probabilities(rows), classifier.probabilities(rows))
    assert again.settings == classifier.settings and again.figures == classifier.figures
    assert repr(again).startswith("Classifier(class 0, class 1, class 2; ") and repr(again).endswith("; 60 examples)")
    (tmp_path / "cut").write_bytes(file.read_bytes()[:500])
    for name in ("plain", "cut", "missing"):
        with pytest.raises(ConfigError, match=f"{name}: not a classifier"):
            Classifier.load(tmp_path / name)
    (tmp_path / "later").write_bytes(file.read_bytes().replace(rb"\"format_version\": 1", rb"\"format_version\": 2"))
    with pytest.raises(ConfigError, match=r"later: in format 2, and this reads 1; upgrade mtslvr$"):
        Classifier.load(tmp_path / "later")


def test_what_cannot_be_learned_from_or_judged_is_said(made):
    classifier, rows = fit_examples(made()), made().embeddings
    broken = np.where(np.arange(60)[:, None] == 3, np.nan, rows)
    for call, told in (
        (lambda: fit_examples(made(labels=["owl"] * 60)), "examples of 'owl' only"),
        (lambda: classifier.probabilities(rows[:, :3]), r"shape \(60, 3\), and this .* takes \(n, 16\)"),
        (lambda: classifier.probabilities(broken), "rows: 1 of 60 embeddings are no numbers"),
        (lambda: classifier.predict("a.wav"), "is one; give a list of paths"),
        (lambda: classifier.predict(["a.wav"], threshold=2), "threshold=2: must be a probability"),
    ):
        with pytest.raises(ConfigError, match=told):
            call()


def test_embeddings_made_otherwise_are_refused(made):
    classifier = fit_examples(made())
    settings = classifier.settings
    classifier.check_settings({**settings, "channel": "mix", "hop_seconds": 3.0, "format": "npz"}, "night.npz")
    for key, theirs, ours in (("window_seconds", 5.0, r"1\.0"), ("channel", 1, "'mix'")):
        with pytest.raises(ConfigError, match=f"npz: made with {key} {theirs}, the classifier with {ours}; embed"):
            classifier.check_settings({**settings, key: theirs}, "night.npz")
