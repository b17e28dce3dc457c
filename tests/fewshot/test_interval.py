import itertools

import numpy as np
import pytest

from mtslvr.fewshot import EpisodeConfig, clips_interval, evaluate


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
@pytest.mark.parametrize(("clips", "episodes"), [(40, 2000), (40, 200), (10, 2000)])
def test_19_of_20_intervals_hold_the_accuracy_of_all_clips_there_could_be(clips, episodes):
    rng = np.random.default_rng(0)
    means = 0.6 * rng.standard_normal((5, 20))

    def sample(count):
        labels = np.repeat(np.arange(5), count)
        spread = np.exp(0.5 * rng.standard_normal((len(labels), 1)))  # some clips are harder than others
        return means[labels] + spread * rng.standard_normal((len(labels), 20)), labels

    truth = evaluate(*sample(3000), EpisodeConfig(episodes=20_000), "centroid").mean
    config = EpisodeConfig(episodes=episodes)
    found = [evaluate(*sample(clips), config, "centroid") for _ in range(200)]
    held = np.mean([abs(result.mean - truth) < result.ci95 for result in found])
    assert 0.91 <= held <= 0.99
    if episodes == 2000:
        assert np.mean([abs(result.mean - truth) < result.ci95_draws for result in found]) < 0.5
