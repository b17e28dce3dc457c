import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, SGDClassifier

from mtslvr.errors import ConfigError
from mtslvr.fewshot import Classifier, classify
from mtslvr.fewshot.classifiers import logistic_fit, sgd_fit, weight_norms

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def toy(episodes, n_way, n_shot, dim, scale=1.0):
    """Overlapping classes off the origin: supports (E, n_way, n_shot, dim), queries (E, 4 n_way, dim)."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((episodes, n_way, 1, dim)) + 3 * rng.standard_normal(dim)
    support = scale * (means + rng.standard_normal((episodes, n_way, n_shot, dim)))
    query = scale * (means + rng.standard_normal((episodes, n_way, 4, dim)))
    return support, query.reshape(episodes, n_way * 4, dim)


def fitted(model, support):
    return model.fit(support.reshape(-1, support.shape[2]), np.repeat(np.arange(len(support)), support.shape[1]))


# The second has fewer dimensions than supports, and classes overlap; of two classes scikit-learn has one weight vector.
@pytest.mark.parametrize(("n_way", "n_shot", "dim", "scale"), [(5, 1, 200, 0.03), (5, 5, 3, 2.0), (2, 6, 3, 1.0)])
def test_logistic_equals_scikit_learn(n_way, n_shot, dim, scale):
    support, query = toy(5, n_way, n_shot, dim, scale)
    predicted, dual = logistic_fit(support, query)
    norms = weight_norms(dual, support, [slice(0, 2), slice(2, None)])
    for i in range(len(support)):
        model = fitted(LogisticRegression(tol=1e-8, max_iter=5000), support[i])
        np.testing.assert_array_equal(predicted[i], model.predict(query[i]))
        weights = np.concatenate([-model.coef_, model.coef_]) / 2 if n_way == 2 else model.coef_
        expected = [np.linalg.norm(weights[:, :2]), np.linalg.norm(weights[:, 2:])]
        np.testing.assert_allclose(norms[i], expected, rtol=2e-3)


def test_features_too_large_for_a_fit_are_an_error_that_says_what_to_do():
    support, query = toy(20, 5, 5, 1, 1e6)
    with pytest.warns(UserWarning, match="has not converged; scale the features, as with scaling='l2'"):
        assert np.isfinite(logistic_fit(support, query)[1]).all()
    with pytest.raises(ConfigError, match=r"at most 1e\+07; scale the features"):
        logistic_fit(1e9 * support, query)
    with np.errstate(all="ignore"), pytest.raises(ConfigError, match="too large for sgd; scale them"):
        sgd_fit(*toy(1, 5, 1, 3, 1e200))


@pytest.mark.parametrize("kind", list(Classifier))
def test_an_episode_alone_gives_what_it_gives_among_others(kind):
    support, query = (array.astype(np.float32) for array in toy(520, 3, 1, 6))
    together, _ = classify(kind, support, query, np.random.RandomState(1))
    rng = np.random.RandomState(1)
    parts = [classify(kind, support[part], query[part], rng)[0] for part in (slice(515), slice(515, None))]
    np.testing.assert_array_equal(together, np.concatenate(parts))


def test_cosine_equals_a_slow_loop_and_ignores_lengths():
    support, query = toy(8, 4, 3, 5)
    predicted, _ = classify(Classifier.COSINE, 7 * support, query * np.arange(1, 17)[None, :, None])
    support, query = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (support, query))
    for e, q in np.ndindex(predicted.shape):
        means = [support[e, c].mean(axis=0) for c in range(4)]
        assert predicted[e, q] == int(np.argmax([query[e, q] @ m / np.linalg.norm(m) for m in means]))


@pytest.mark.parametrize(
    ("n_way", "n_shot", "dim", "scale", "max_iter", "dtype"),
    [
        (5, 1, 200, 3.0, 20, np.float32),  # probabilities saturate
        (5, 5, 4, 1.0, 100, np.float64),  # the learning rate falls and some fits stop
        (2, 3, 10, 1.0, 20, np.float32),  # one fit for two classes
        (3, 2, 5, 0.0, 20, np.float64),  # nothing to learn: all probabilities equal
    ],
)
def test_sgd_equals_the_published_loop_of_scikit_learn(n_way, n_shot, dim, scale, max_iter, dtype):
    support, query = (array.astype(dtype) for array in toy(5, n_way, n_shot, dim, scale))
    published = {"loss": "log_loss", "alpha": 0, "l1_ratio": 0, "learning_rate": "adaptive", "eta0": 0.1, "tol": 1e-4}
    how = {"n_iter_no_change": 2, "max_iter": max_iter, "random_state": np.random.RandomState(4)}
    models = [fitted(SGDClassifier(**published, **how), s) for s in support]
    found, dual = sgd_fit(support, query, np.random.RandomState(4), max_iter)
    predicted = [model.predict_proba(q).argmax(axis=1) for model, q in zip(models, query, strict=True)]
    np.testing.assert_array_equal(found, predicted)
    weights = np.einsum("esd,esk->ekd", support.reshape(5, -1, dim), dual)
    largest = max(abs(model.coef_).max() for model in models)
    np.testing.assert_allclose(weights, [model.coef_ for model in models], atol=1e-4 * largest + 1e-12)
