import dataclasses
import itertools
import json

import fill_rule
import numpy as np
import pytest

from mtslvr.errors import ConfigError
from mtslvr.fewshot import Classifier, EpisodeConfig, clips_interval, evaluate, published_tasks
from mtslvr.fewshot.episodes import usable_classes
from mtslvr.fewshot.evaluate import classify_files, draw_support_pieces, draws_interval, majority_vote

GOLDEN = np.load(fill_rule.GOLDEN / "golden_fewshot.npz")
INFO = json.loads(str(GOLDEN["info"]))
CASES = {
    "5w1s1q_it20": (EpisodeConfig(5, 1, 1, 30), 20),
    "5w1s5q_it20": (EpisodeConfig(5, 1, 5, 30), 20),
    "5w1s5q_it100": (EpisodeConfig(5, 1, 5, 30), 100),
    "5w5s5q_it20": (EpisodeConfig(5, 5, 5, 15), 20),
}
FEATURES, PIECES, LABELS = GOLDEN["features"], GOLDEN["nsub"], GOLDEN["labels"]

pytestmark = pytest.mark.filterwarnings("ignore:dropped classes")


@pytest.mark.parametrize("case", CASES)
def test_tasks_pieces_votes_and_accuracies_equal_the_golden_ones(case):
    config, max_iter = CASES[case]
    with pytest.warns(UserWarning, match=r"dropped classes .* 11\.0 \(1\)"):
        tasks = published_tasks(LABELS, config)
    state = np.random.RandomState
    parts = tasks[..., : config.n_shot], tasks[..., config.n_shot :]  # in the published order
    flat = np.concatenate([part.reshape(len(tasks), -1) for part in parts], axis=1)
    np.testing.assert_array_equal(flat, GOLDEN[f"{case}/tasks"])
    np.testing.assert_array_equal(usable_classes(LABELS, config), GOLDEN[f"{case}/kept_classes"])
    chosen = draw_support_pieces(PIECES[parts[0]], state(7))
    np.testing.assert_array_equal(chosen.reshape(len(tasks), -1), GOLDEN[f"{case}/support_subclip"])
    chosen = chosen.reshape(len(tasks), config.n_way, -1)

    def measured(classifier, seed):
        """Votes on every task, with one random state a task, and the fraction of right ones."""
        each = [
            classify_files(FEATURES, PIECES, tasks[[t]], chosen[[t]], classifier, state(seed + t), max_iter=max_iter)
            for t in range(len(tasks))
        ]
        votes = np.concatenate([found for found, _ in each])
        return votes, (votes == np.arange(config.n_way)[:, None]).mean(axis=(1, 2))

    votes, accuracies = measured(Classifier.SGD, 1000)
    np.testing.assert_array_equal(votes.reshape(len(tasks), -1), GOLDEN[f"{case}/votes"])
    np.testing.assert_allclose(accuracies, GOLDEN[f"{case}/acc"], atol=1e-6)
    summary = INFO["results"][case]
    assert accuracies.mean() == pytest.approx(summary["mean"], abs=1e-6)
    assert 100 * draws_interval(accuracies) == pytest.approx(summary["ci95"], abs=1e-4)
    for classifier, seed, name in ((Classifier.SGD, 5000, "acc_globalseed"), (Classifier.CENTROID, 0, "ncc_acc")):
        np.testing.assert_allclose(measured(classifier, seed)[1], GOLDEN[f"{case}/{name}"], atol=1e-6)
    as_published = dataclasses.replace(config, sampler="published")
    assert evaluate(FEATURES, LABELS, as_published, "centroid", pieces=PIECES).settings["n_query"] == config.n_query


def test_vote_ties_go_to_the_smallest_label():
    for sequence, result in zip(GOLDEN["vote/sequences"], GOLDEN["vote/result"], strict=True):
        votes = np.array(json.loads(str(sequence)))
        assert majority_vote(votes, np.ones(votes.shape, bool)) == result


def clusters(spread):
    """12 files of 8 classes, and their labels."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(8), 12)
    return rng.standard_normal((8, 20))[labels] + spread * rng.standard_normal((96, 20)), labels


@pytest.mark.parametrize(("classifier", "scaling"), [*((kind, None) for kind in Classifier), ("logistic", "standard")])
def test_perfect_clusters_give_100_and_noise_gives_chance(classifier, scaling):
    config = EpisodeConfig(n_shot=2, n_query=2, episodes=30)
    features, labels = clusters(spread=1e-3)
    perfect = evaluate(features, labels, config, classifier, scaling)
    assert (perfect.mean, perfect.ci95) == (100.0, 0.0)
    noise = evaluate(np.random.default_rng(1).standard_normal(features.shape), labels, config, classifier, scaling)
    assert abs(noise.mean - 20) < 2 * noise.ci95


def test_result_is_in_percent_and_says_how_it_was_made():
    result = evaluate(*clusters(spread=1.5), EpisodeConfig(n_query=4, episodes=50), "logistic")
    assert result.accuracies.shape == (50,)
    assert result.mean == pytest.approx(result.accuracies.mean()) and 20 < result.mean < 100
    assert result.ci95_draws == pytest.approx(1.96 * result.accuracies.std() / 50**0.5)
    drawn = {"n_way": 5, "n_shot": 1, "n_query": 4, "episodes": 50, "seed": 42, "sampler": "uniform"}
    assert result.settings == {**drawn, "classifier": "logistic", "scaling": "l2"}


def test_what_makes_no_difference_changes_nothing():
    features, labels = clusters(spread=1.5)
    rng = np.random.default_rng(2)
    lengths, pieces = rng.uniform(0.1, 10, (len(features), 1)), rng.integers(1, 5, len(labels))
    moved = features * np.geomspace(0.01, 100, 20) + np.linspace(-5, 5, 20)
    for other, scaling, how in (
        (lengths * features, "l2", {}),
        (moved, "standard", {}),
        (np.repeat(features, pieces, axis=0), None, {"pieces": pieces}),
    ):
        config = EpisodeConfig(n_query=3, episodes=40)
        expected = evaluate(features, labels, config, scaling=scaling).accuracies
        np.testing.assert_array_equal(evaluate(other, labels, config, scaling=scaling, **how).accuracies, expected)


def test_bad_input_is_named():
    for features, settings, message in (
        (np.zeros(10), {}, r"features of shape \(10,\): expected \(n, D\)"),
        (np.zeros((9, 3)), {}, "features have 9 rows, labels and pieces ask for 10"),
        (np.full((10, 3), np.nan), {}, "features: 10 rows hold NaN or infinity, first 0"),
        (np.zeros((10, 3)), {"classifier": "svm"}, "classifier='svm': unknown; use one of 'logistic', 'sgd'"),
        (np.zeros((10, 3)), {"pieces": [0] * 10}, "pieces: expected 10 integers of at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(features, np.repeat(np.arange(5), 2), **settings)


def test_the_interval_is_that_of_the_jackknife_over_clips():
    labels, variance = np.repeat([0, 1], [5, 4]), 0.0
    of_class = [np.flatnonzero(labels == label) for label in (0, 1)]
    episodes = np.array(list(itertools.product(*(itertools.permutations(clips, 2) for clips in of_class))))  # all
    accuracies = np.random.default_rng(0).uniform(0, 100, len(episodes))
    for clips in of_class:
        without = [accuracies[~(episodes == clip).any(axis=(1, 2))].mean() for clip in clips]
        variance += (len(clips) - 1) * np.mean((np.array(without) - accuracies.mean()) ** 2)
    # Each episode many times over, so that nothing is left to the draws.
    found = clips_interval(np.tile(accuracies, 500), np.tile(episodes, (500, 1, 1)), labels)
    assert found == pytest.approx(1.96 * variance**0.5, rel=0.01)
    labels = np.repeat(["a", "b"], 2)  # without clips to spare there is none
    result = evaluate(np.arange(8.0).reshape(4, 2), labels, EpisodeConfig(2, episodes=5), "centroid")
    assert np.isnan(result.ci95) and str(result).endswith(" ± ?")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clips", "episodes", "n_shot", "n_query"),
    [(40, 2000, 1, 1), (40, 200, 1, 1), (10, 2000, 1, 1), (40, 600, 1, 5), (15, 600, 5, 5)],
)
def test_19_of_20_intervals_hold_the_accuracy_of_all_clips_there_could_be(clips, episodes, n_shot, n_query):
    rng = np.random.default_rng(0)
    means = 0.6 * rng.standard_normal((5, 20))

    def sample(count):
        labels = np.repeat(np.arange(5), count)
        spread = np.exp(0.5 * rng.standard_normal((len(labels), 1)))  # some clips are harder than others
        return means[labels] + spread * rng.standard_normal((len(labels), 20)), labels

    truth = evaluate(*sample(3000), EpisodeConfig(5, n_shot, n_query, 20_000), "centroid").mean
    config = EpisodeConfig(5, n_shot, n_query, episodes)
    found = [evaluate(*sample(clips), config, "centroid") for _ in range(200)]
    held = np.mean([abs(result.mean - truth) < result.ci95 for result in found])
    assert 0.91 <= held <= 0.99
    assert episodes < 2000 or np.mean([abs(result.mean - truth) < result.ci95_draws for result in found]) < 0.5
