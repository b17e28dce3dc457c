import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtslvr.errors import AudioError, ConfigError
from mtslvr.fewshot import (
    Classifier,
    EpisodeConfig,
    FewShotResult,
    Row,
    evaluate,
    format_table,
    l2_concat,
    log_mel_features,
    log_mel_statistics,
    majority_vote,
    published_tasks,
    sgd,
)
from mtslvr.fewshot.evaluate import classify_files, draw_support_pieces
from mtslvr.fewshot.interval import draws_interval
from mtslvr.fewshot.logmel import BASELINE

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "golden_fewshot.npz")
INFO = json.loads(str(GOLDEN["info"]))
CASES = {
    "5w1s1q_it20": (EpisodeConfig(5, 1, 1, 30), 20),
    "5w1s5q_it20": (EpisodeConfig(5, 1, 5, 30), 20),
    "5w1s5q_it100": (EpisodeConfig(5, 1, 5, 30), 100),
    "5w5s5q_it20": (EpisodeConfig(5, 5, 5, 15), 20),
}
FEATURES, PIECES, LABELS = GOLDEN["features"], GOLDEN["nsub"], GOLDEN["labels"]

pytestmark = pytest.mark.filterwarnings("ignore:dropped classes")


@pytest.fixture(params=CASES)
def golden_case(request):
    config, max_iter = CASES[request.param]
    return request.param, config, max_iter, published_tasks(LABELS, config)


def accuracy(votes):
    """Fraction of each episode's query files with the right label."""
    return (votes == np.arange(votes.shape[1])[:, None]).mean(axis=(1, 2))


def golden_votes(case, config, max_iter, tasks, classifier, seed):
    """Votes of every task, with the golden support pieces and one random state a task."""
    chosen = GOLDEN[f"{case}/support_subclip"].astype(np.int64).reshape(len(tasks), config.n_way, -1)
    return np.concatenate(
        [
            classify_files(
                FEATURES, PIECES, tasks[[t]], chosen[[t]], classifier, random_state=seed(t), max_iter=max_iter
            )
            for t in range(len(tasks))
        ]
    )


def test_support_pieces_equal_the_golden_ones(golden_case):
    case, config, _, tasks = golden_case
    drawn = draw_support_pieces(PIECES[tasks[..., : config.n_shot]], np.random.RandomState(7))
    np.testing.assert_array_equal(drawn.reshape(len(tasks), -1), GOLDEN[f"{case}/support_subclip"])


def test_sgd_votes_and_accuracy_equal_the_golden_ones(golden_case):
    case, config, max_iter, tasks = golden_case
    votes = golden_votes(case, config, max_iter, tasks, Classifier.SGD, lambda t: 1000 + t)
    np.testing.assert_array_equal(votes.reshape(len(tasks), -1), GOLDEN[f"{case}/votes"])
    np.testing.assert_allclose(accuracy(votes), GOLDEN[f"{case}/acc"], atol=1e-6)
    summary = INFO["results"][case]
    assert accuracy(votes).mean() == pytest.approx(summary["mean"], abs=1e-6)
    assert 100 * draws_interval(accuracy(votes)) == pytest.approx(summary["ci95"], abs=1e-4)


def test_sgd_with_the_global_seed_equals_the_golden_one(golden_case):
    case, config, max_iter, tasks = golden_case
    state = np.random.RandomState
    votes = golden_votes(case, config, max_iter, tasks, Classifier.SGD, lambda t: state(5000 + t))
    np.testing.assert_allclose(accuracy(votes), GOLDEN[f"{case}/acc_globalseed"], atol=1e-6)


def test_centroid_equals_the_golden_one(golden_case):
    case, config, max_iter, tasks = golden_case
    votes = golden_votes(case, config, max_iter, tasks, Classifier.CENTROID, lambda t: None)
    np.testing.assert_allclose(accuracy(votes), GOLDEN[f"{case}/ncc_acc"], atol=1e-6)


def test_piece_predictions_of_the_first_task_equal_the_golden_ones(golden_case):
    case, config, max_iter, tasks = golden_case
    first = np.cumsum(PIECES) - PIECES
    supports, queries = tasks[0, :, : config.n_shot], tasks[0, :, config.n_shot :].ravel()
    chosen = GOLDEN[f"{case}/support_subclip"][0].reshape(supports.shape)
    rows = np.concatenate([first[f] + np.arange(PIECES[f]) for f in queries])
    predicted = sgd(
        FEATURES[first[supports] + chosen][None], FEATURES[rows][None], max_iter=max_iter, random_state=1000
    )
    np.testing.assert_array_equal(predicted[0], GOLDEN[f"{case}/task0_sub_pred"])


def test_fixed_length_path_equals_the_golden_one():
    config, max_iter = CASES["5w1s5q_it20"]
    tasks = published_tasks(LABELS, config)
    features = FEATURES[np.cumsum(PIECES) - PIECES]
    ones, zeros = np.ones(len(features), dtype=np.int64), np.zeros((1, 5, 1), dtype=np.int64)
    votes = [
        classify_files(features, ones, tasks[[t]], zeros, Classifier.SGD, random_state=1000 + t, max_iter=max_iter)
        for t in range(len(tasks))
    ]
    np.testing.assert_allclose(accuracy(np.concatenate(votes)), GOLDEN["fixed_5w1s5q_it20/acc"], atol=1e-6)


@pytest.mark.parametrize("index", range(len(GOLDEN["vote/sequences"])))
def test_vote_ties_go_to_the_smallest_label(index):
    sequence = np.array(json.loads(str(GOLDEN["vote/sequences"][index])))
    assert majority_vote(sequence) == GOLDEN["vote/result"][index]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=7), min_size=1, max_size=5))
def test_vote_is_the_mode_of_each_file(files):
    width = max(map(len, files))
    predicted = np.array([f + [f[0]] * (width - len(f)) for f in files])
    valid = np.arange(width) < np.array([[len(f)] for f in files])
    expected = [int(torch.tensor(f).mode().values) for f in files]
    np.testing.assert_array_equal(majority_vote(predicted, valid), expected)


def clusters(n_classes=8, files=12, dim=20, spread=0.8, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), files)
    return rng.standard_normal((n_classes, dim))[labels] + spread * rng.standard_normal((len(labels), dim)), labels


@pytest.mark.parametrize("classifier", list(Classifier))
@pytest.mark.parametrize("scaling", [None, "none", "l2", "standard"])
def test_perfect_clusters_give_100_and_noise_gives_chance(classifier, scaling):
    config = EpisodeConfig(n_shot=2, n_query=2, episodes=60)
    features, labels = clusters(spread=1e-3)
    perfect = evaluate(features, labels, config, classifier, scaling)
    assert (perfect.mean, perfect.ci95) == (100.0, 0.0)
    noise = evaluate(np.random.default_rng(1).standard_normal(features.shape), labels, config, classifier, scaling)
    assert abs(noise.mean - 20) < 3 * noise.ci95 + 1


def test_result_is_in_percent_and_says_how_it_was_made():
    features, labels = clusters(spread=1.5)
    result = evaluate(features, labels, EpisodeConfig(n_query=4, episodes=50), "logistic")
    assert result.accuracies.shape == (50,)
    assert 20 < result.mean < 100
    assert result.mean == pytest.approx(result.accuracies.mean())
    assert result.ci95_draws == pytest.approx(1.96 * result.accuracies.std() / 50**0.5)
    assert result.settings == {
        "n_way": 5,
        "n_shot": 1,
        "n_query": 4,
        "episodes": 50,
        "seed": 42,
        "classifier": "logistic",
        "scaling": "l2",
    }
    json.dumps(result.settings)


@pytest.mark.parametrize("classifier", list(Classifier))
def test_evaluate_repeats_itself(classifier):
    features, labels = clusters(spread=1.5)
    one, two = (evaluate(features, labels, EpisodeConfig(episodes=40), classifier) for _ in range(2))
    np.testing.assert_array_equal(one.accuracies, two.accuracies)


def test_blocks_do_not_change_the_result(monkeypatch):
    features, labels = clusters(spread=1.5)
    config = EpisodeConfig(episodes=64)
    whole = evaluate(features, labels, config)
    monkeypatch.setattr(sys.modules[evaluate.__module__], "_BLOCK_BYTES", 1)
    np.testing.assert_array_equal(evaluate(features, labels, config).accuracies, whole.accuracies)


def test_l2_ignores_the_length_of_each_row():
    features, labels = clusters(spread=1.5)
    lengths = np.random.default_rng(2).uniform(0.1, 10, (len(features), 1))
    one, two = (evaluate(f, labels, EpisodeConfig(episodes=40), scaling="l2") for f in (features, lengths * features))
    np.testing.assert_array_equal(one.accuracies, two.accuracies)


def test_standard_ignores_offset_and_scale_of_each_feature():
    features, labels = clusters(spread=1.5)
    moved = features * np.geomspace(0.01, 100, 20) + np.linspace(-5, 5, 20)
    config = EpisodeConfig(episodes=40)
    one, two = (evaluate(f, labels, config, scaling="standard") for f in (features, moved))
    np.testing.assert_array_equal(one.accuracies, two.accuracies)


def test_constant_features_stay_finite_under_every_scaling():
    features, labels = np.zeros((40, 6)), np.repeat(np.arange(5), 8)
    for scaling in ("none", "l2", "standard"):
        assert evaluate(features, labels, EpisodeConfig(episodes=5), scaling=scaling).mean == 20.0


def test_same_pieces_of_a_file_change_nothing():
    features, labels = clusters(spread=1.5)
    pieces = np.random.default_rng(3).integers(1, 5, len(labels))
    config = EpisodeConfig(n_query=3, episodes=40)
    for classifier in ("logistic", "centroid"):
        repeated = evaluate(np.repeat(features, pieces, axis=0), labels, config, classifier, pieces=pieces)
        np.testing.assert_array_equal(repeated.accuracies, evaluate(features, labels, config, classifier).accuracies)


def test_given_episodes_are_used():
    tasks = published_tasks(LABELS, EpisodeConfig(5, 1, 5, 30))
    result = evaluate(FEATURES, LABELS, EpisodeConfig(), "centroid", pieces=PIECES, episodes=tasks[:7])
    assert result.settings["episodes"] == 7
    assert result.settings["n_query"] == 5
    assert len(result.accuracies) == 7


@pytest.mark.parametrize(
    ("features", "settings", "message"),
    [
        (np.zeros(10), {}, r"features of shape \(10,\): expected \(n, D\)"),
        (np.zeros((9, 3)), {}, "features have 9 rows, labels and pieces ask for 10"),
        (np.full((10, 3), np.nan), {}, "features: 10 rows hold NaN or infinity, first 0"),
        (np.zeros((10, 3)), {"classifier": "svm"}, "classifier='svm': unknown; use one of 'logistic', 'sgd'"),
        (
            np.zeros((10, 3)),
            {"scaling": "max"},
            "scaling='max': unknown; use one of 'none', 'l2', 'standard'",
        ),
        (np.zeros((10, 3)), {"pieces": [1] * 9}, "pieces: expected 10 integers of at least 1"),
        (np.zeros((10, 3)), {"pieces": [0] * 10}, "pieces: expected 10 integers of at least 1"),
        (np.zeros((10, 3)), {"episodes": np.zeros((1, 4, 2), int)}, r"expected \(E, 5, 1 \+ queries\)"),
        (np.zeros((10, 3)), {"episodes": np.full((1, 5, 2), 10)}, "file indices from 0 to 9"),
    ],
)
def test_bad_input_is_named(features, settings, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(features, np.repeat(np.arange(5), 2), **settings)


def test_l2_concat_gives_both_halves_the_same_weight():
    rng = np.random.default_rng(0)
    joined = l2_concat(rng.standard_normal((4, 3)), 100 * rng.standard_normal((4, 5)))
    assert joined.shape == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(joined[:, :3], axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(joined[:, 3:], axis=1), 1)


def test_log_mel_statistics_ignore_level_and_stay_finite():
    noise = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    statistics = log_mel_statistics(noise)
    assert statistics.shape == (2, 256)
    torch.testing.assert_close(log_mel_statistics(0.01 * noise + 0.5), statistics, rtol=1e-3, atol=1e-2)
    assert torch.isfinite(log_mel_statistics(torch.zeros(1, 8000))).all()
    assert torch.isfinite(log_mel_statistics(torch.ones(1, 1))).all()
    rows = log_mel_features(iter(noise))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, statistics.numpy(), atol=1e-4)


def test_log_mel_deviation_is_that_over_time():
    from mtslvr.nn.frontend import log_mel

    noise = torch.randn(1, 16000, generator=torch.Generator().manual_seed(1))
    spectrogram = log_mel((noise - noise.mean()) / noise.std(), BASELINE)[0].numpy()
    mean, deviation = np.split(log_mel_statistics(noise)[0].numpy(), 2)
    np.testing.assert_allclose(mean, spectrogram.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(deviation, spectrogram.std(axis=1), atol=1e-4)


def test_log_mel_of_wrong_rank():
    with pytest.raises(AudioError, match="shape"):
        log_mel_statistics(torch.zeros(2, 1, 8000))


def test_table_has_features_down_and_classifiers_across():
    result = FewShotResult(57.25, 0.5, 0.1, np.zeros(1), {})
    rows = [Row(name, kind, result) for name in ("invariant", "log-mel") for kind in ("sgd", "logistic")]
    assert format_table(rows).splitlines() == [
        "features   sgd           logistic",
        "invariant  57.25 ± 0.50  57.25 ± 0.50",
        "log-mel    57.25 ± 0.50  57.25 ± 0.50",
    ]


def test_import_takes_no_scikit_learn():
    code = "import sys, mtslvr.fewshot; print([m for m in ('sklearn', 'torchaudio') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
