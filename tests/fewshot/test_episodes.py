import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtslvr.errors import ConfigError
from mtslvr.fewshot import EpisodeConfig, draw_episodes, published_tasks


@pytest.mark.filterwarnings("ignore")
def test_published_rule_brings_all_classes_back_with_one_query_or_refuses():
    config = EpisodeConfig(5, 1, 5, 20)
    labels = np.repeat(np.arange(5), [2, 9, 9, 9, 9])
    with pytest.warns(UserWarning, match="all classes, one query each"):
        tasks = published_tasks(labels, config)
    assert tasks.shape == (20, 5, 2)
    assert (np.sort(labels[tasks[:, :, 0]], axis=1) == np.arange(5)).all()
    for sizes, said in (([9, 9, 9, 9], "4 classes, and 4 of"), ([1, 9, 9, 9, 9], "5 classes, and 4 of")):
        with pytest.raises(ConfigError, match=rf"here are {said}.*Ask for less"):
            published_tasks(np.repeat(np.arange(len(sizes)), sizes), config)


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


def test_draws_are_uniform_and_fewer_episodes_are_the_first_of_more():
    labels = np.repeat(np.arange(4), [3, 4, 5, 3])
    episodes = draw_episodes(labels, EpisodeConfig(2, 2, 1, 60_000))
    few, other = (draw_episodes(labels, EpisodeConfig(2, 2, 1, 5, seed)) for seed in (42, 1))
    np.testing.assert_array_equal(few, episodes[:5])
    assert (other != few).any()
    classes = labels[episodes[:, :, 0]]
    pairs = np.bincount(classes[:, 0] * 4 + classes[:, 1], minlength=16).reshape(4, 4) / len(classes)
    np.testing.assert_allclose(pairs, (1 - np.eye(4)) / 12, atol=0.006)
    of_class_2 = episodes[classes == 2] - 7
    triples = np.bincount(of_class_2 @ [25, 5, 1], minlength=125) / len(of_class_2)
    assert (triples > 0).sum() == 60
    np.testing.assert_allclose(triples[triples > 0], 1 / 60, atol=0.004)


def test_classes_with_too_few_files_are_dropped_and_what_cannot_be_is_named():
    labels = ["cat"] * 3 + ["dog"] * 2 + ["hen"]
    with pytest.warns(UserWarning, match=r"fewer than 1 support \+ 1 query files: hen \(1\)"):
        episodes = draw_episodes(labels, EpisodeConfig(n_way=2, episodes=50))
    assert episodes.max() < 5
    said = "n_way=3 takes 3 .* take 2 files of each; here are 3 classes, and 2 of.*add"
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match=said):
        draw_episodes(labels, EpisodeConfig(n_way=3))
    for labels in ([], np.zeros((3, 2))):
        with pytest.raises(ConfigError, match=r"labels of shape .* expected \(n,\)"):
            draw_episodes(labels, EpisodeConfig())
    for field, value in (("n_way", 1), ("n_query", 1.0), ("seed", -1), ("n_way", True)):
        with pytest.raises(ConfigError, match=f"{field}={value!r}: must be an integer from"):
            EpisodeConfig(**{field: value})
