from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtslvr.errors import ConfigError
from mtslvr.fewshot import EpisodeConfig, draw_episodes, published_tasks
from mtslvr.fewshot.episodes import usable_classes

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "golden_fewshot.npz")
CASES = {
    "5w1s1q_it20": EpisodeConfig(5, 1, 1, 30),
    "5w1s5q_it20": EpisodeConfig(5, 1, 5, 30),
    "5w1s5q_it100": EpisodeConfig(5, 1, 5, 30),
    "5w5s5q_it20": EpisodeConfig(5, 5, 5, 15),
}


def flat(tasks: np.ndarray, n_shot: int) -> np.ndarray:
    """(E, n_way, k + q) to the published order: all supports class by class, then all queries."""
    parts = tasks[..., :n_shot], tasks[..., n_shot:]
    return np.concatenate([part.reshape(len(tasks), -1) for part in parts], axis=1)


@pytest.mark.parametrize("case", CASES)
def test_published_tasks_equal_the_golden_ones(case):
    config = CASES[case]
    with pytest.warns(UserWarning, match=r"dropped classes .* 11\.0 \(1\)"):
        tasks = published_tasks(GOLDEN["labels"], config)
        kept = usable_classes(GOLDEN["labels"], config)
    np.testing.assert_array_equal(flat(tasks, config.n_shot), GOLDEN[f"{case}/tasks"])
    np.testing.assert_array_equal(kept, GOLDEN[f"{case}/kept_classes"])


@pytest.mark.filterwarnings("ignore:dropped")
def test_published_rule_brings_all_classes_back_with_one_query():
    labels = np.repeat(np.arange(5), [2, 9, 9, 9, 9])
    with pytest.warns(UserWarning, match="all classes, one query each"):
        tasks = published_tasks(labels, EpisodeConfig(5, 1, 5, 20))
    assert tasks.shape == (20, 5, 2)
    assert (np.sort(labels[tasks[:, :, 0]], axis=1) == np.arange(5)).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sizes", [[9, 9, 9, 9], [1, 9, 9, 9, 9]])
def test_published_tasks_refuse_what_they_cannot_fill(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    with pytest.raises(ConfigError, match=rf"here are {len(sizes)} classes of {min(sizes)} files.*Ask for less"):
        published_tasks(labels, EpisodeConfig(5, 1, 5))


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 9), min_size=3, max_size=8),
    n_way=st.integers(2, 3),
    n_shot=st.integers(1, 2),
    n_query=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
    sampler=st.sampled_from([draw_episodes, published_tasks]),
)
def test_episodes_hold_distinct_classes_and_files(sizes, n_way, n_shot, n_query, seed, sampler):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    config = EpisodeConfig(n_way, n_shot, n_query, 7, seed)
    episodes = sampler(labels, config)
    assert episodes.shape == (7, n_way, n_shot + n_query)
    for episode in episodes:
        classes = labels[episode]
        assert (classes == classes[:, :1]).all()
        assert len(np.unique(classes[:, 0])) == n_way
        assert len(np.unique(episode)) == episode.size


def test_fewer_episodes_are_the_first_of_more():
    labels = np.repeat(np.arange(8), 10)
    few, many = (draw_episodes(labels, EpisodeConfig(episodes=n)) for n in (5, 500))
    np.testing.assert_array_equal(few, many[:5])
    assert (draw_episodes(labels, EpisodeConfig(episodes=5, seed=1)) != few).any()


def test_draws_are_uniform():
    labels = np.repeat(np.arange(4), [3, 4, 5, 3])
    episodes = draw_episodes(labels, EpisodeConfig(2, 2, 1, 60_000))
    classes = labels[episodes[:, :, 0]]
    pairs = np.bincount(classes[:, 0] * 4 + classes[:, 1], minlength=16).reshape(4, 4) / len(classes)
    np.testing.assert_allclose(pairs, (1 - np.eye(4)) / 12, atol=0.006)
    of_class_2 = episodes[classes == 2] - 7
    triples = np.bincount(of_class_2 @ [25, 5, 1], minlength=125) / len(of_class_2)
    assert (triples > 0).sum() == 60
    np.testing.assert_allclose(triples[triples > 0], 1 / 60, atol=0.004)


def test_classes_with_too_few_files_are_dropped_or_an_error():
    labels = ["cat"] * 3 + ["dog"] * 3 + ["hen"]
    with pytest.warns(UserWarning, match=r"fewer than 1 support \+ 1 query files: hen \(1\)"):
        episodes = draw_episodes(labels, EpisodeConfig(n_way=2, episodes=50))
    assert episodes.max() < 6
    said = "n_way=3 takes 3 .* take 2 files of each; here are 3 classes, and 2 of.*add"
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match=said):
        draw_episodes(labels, EpisodeConfig(n_way=3))


def test_bad_labels_and_settings_are_named():
    for labels in ([], np.zeros((3, 2))):
        with pytest.raises(ConfigError, match=r"labels of shape .* expected \(n,\)"):
            draw_episodes(labels, EpisodeConfig())
    for field, value in (("n_way", 1), ("n_query", 1.0), ("seed", -1), ("n_way", True)):
        with pytest.raises(ConfigError, match=f"{field}={value!r}: must be an integer from"):
            EpisodeConfig(**{field: value})
