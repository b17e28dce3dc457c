import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, SGDClassifier

from mtslvr.errors import ConfigError
from mtslvr.fewshot import Classifier, classify
from mtslvr.fewshot.linear import logistic_fit, weight_norms
from mtslvr.fewshot.sgd import sgd_fit


def toy(episodes, n_way, n_shot, dim, scale=1.0, n_query=4, seed=0):
    """Overlapping classes off the origin: supports (E, n_way, n_shot, dim), queries (E, n_way * n_query, dim)."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((episodes, n_way, 1, dim)) + 3 * rng.standard_normal(dim)
    support = scale * (means + rng.standard_normal((episodes, n_way, n_shot, dim)))
    query = scale * (means + rng.standard_normal((episodes, n_way, n_query, dim)))
    return support, query.reshape(episodes, n_way * n_query, dim)


def sklearn_model(support):
    n_way, n_shot, dim = support.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(tol=1e-8, max_iter=5000)
        return model.fit(support.reshape(-1, dim), np.repeat(np.arange(n_way), n_shot))


@pytest.mark.parametrize(
    ("n_way", "n_shot", "dim", "scale"),
    [
        (5, 1, 200, 0.03),
        (5, 5, 3, 2.0),  # fewer dimensions than supports, classes overlap
        (3, 4, 2, 20.0),
        (2, 6, 3, 1.0),  # two classes: scikit-learn has one weight vector
    ],
)
def test_logistic_equals_scikit_learn(n_way, n_shot, dim, scale):
    support, query = toy(5, n_way, n_shot, dim, scale)
    fit = logistic_fit(support, query)
    for i in range(len(support)):
        model = sklearn_model(support[i])
        np.testing.assert_array_equal(fit.predicted[i], model.predict(query[i]))
        expected = model.decision_function(query[i])
        if n_way == 2:
            expected = np.stack([-expected, expected], axis=1) / 2
        centred = fit.scores[i] - fit.scores[i].mean(axis=1, keepdims=True)
        expected = expected - expected.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(centred, expected, atol=1e-3 * abs(expected).max())


def test_logistic_of_huge_features_says_what_to_do():
    support, query = toy(20, 5, 5, 1, 1e6)
    with pytest.warns(UserWarning, match="has not converged; scale the features, as with scaling='l2'"):
        assert np.isfinite(logistic_fit(support, query).scores).all()
    with pytest.raises(ConfigError, match=r"at most 1e\+07; scale the features"):
        logistic_fit(1e9 * support, query)


@pytest.mark.parametrize("kind", list(Classifier))
def test_an_episode_alone_gives_what_it_gives_among_others(kind):
    support, query = (array.astype(np.float32) for array in toy(520, 3, 1, 6))
    together, _ = classify(kind, support, query, random_state=1)
    alone, _ = classify(kind, support[515:], query[515:], random_state=1)
    np.testing.assert_array_equal(together[515:], alone)


def test_cosine_equals_a_slow_loop_and_ignores_lengths():
    support, query = toy(8, 4, 3, 5)
    predicted, _ = classify(Classifier.COSINE, 7 * support, query * np.arange(1, 17)[None, :, None])
    support, query = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (support, query))
    for e, q in np.ndindex(predicted.shape):
        means = [support[e, c].mean(axis=0) for c in range(4)]
        assert predicted[e, q] == int(np.argmax([query[e, q] @ m / np.linalg.norm(m) for m in means]))


def sklearn_sgd(support, query, max_iter, random_state):
    """The published loop: a scikit-learn model an episode, and the label of the largest probability."""
    n_way, n_shot, dim = support.shape[1:]
    models, predicted = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for s, q in zip(support, query, strict=True):
            model = SGDClassifier(
                loss="log_loss", alpha=0, l1_ratio=0, learning_rate="adaptive", eta0=0.1, tol=1e-4, n_iter_no_change=2,
                max_iter=max_iter, random_state=random_state,
            )  # fmt: skip
            models.append(model.fit(s.reshape(-1, dim), np.repeat(np.arange(n_way), n_shot)))
            predicted.append(model.predict_proba(q).argmax(axis=1))
    return models, np.stack(predicted)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n_way", "n_shot", "dim", "scale", "max_iter"),
    [
        (5, 1, 200, 3.0, 20),  # probabilities saturate
        (5, 5, 4, 1.0, 100),  # classes overlap, the learning rate falls and some fits stop
        (2, 3, 10, 1.0, 20),  # one fit for two classes
        (3, 2, 5, 0.0, 20),  # nothing to learn: all probabilities equal
    ],
)
def test_sgd_equals_the_scikit_learn_loop(n_way, n_shot, dim, scale, max_iter, dtype):
    support, query = (array.astype(dtype) for array in toy(5, n_way, n_shot, dim, scale))
    models, expected = sklearn_sgd(support, query, max_iter, np.random.RandomState(4))
    fit = sgd_fit(support, query, max_iter=max_iter, random_state=np.random.RandomState(4))
    np.testing.assert_array_equal(fit.predicted, expected)
    weights = np.einsum("esd,esk->ekd", support.reshape(5, -1, dim), fit.dual)
    largest = max(abs(model.coef_).max() for model in models)
    np.testing.assert_allclose(weights, [model.coef_ for model in models], atol=1e-4 * largest + 1e-12)


def test_sgd_seeds_are_those_of_scikit_learn():
    support, query = toy(4, 5, 2, 24)
    predicted = sgd_fit(support, query, random_state=3).predicted
    np.testing.assert_array_equal(predicted, sklearn_sgd(support, query, 20, 3)[1])
    np.random.seed(9)
    published = sgd_fit(support, query).predicted
    seeded = sgd_fit(support, query, random_state=np.random.RandomState(9)).predicted
    np.testing.assert_array_equal(seeded, published)


def test_sgd_of_features_that_overflow_says_what_to_do():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ConfigError, match="too large for sgd; scale them"):
            sgd_fit(*toy(1, 5, 1, 3, 1e200), random_state=0)


def test_weight_norms_are_those_of_scikit_learn():
    support, query = toy(3, 4, 2, 6)
    norms = weight_norms(logistic_fit(support, query).dual, support, [slice(0, 2), slice(2, None)])
    coefficients = [sklearn_model(s).coef_ for s in support]
    expected = [[np.linalg.norm(c[:, :2]), np.linalg.norm(c[:, 2:])] for c in coefficients]
    np.testing.assert_allclose(norms, expected, rtol=1e-3)
