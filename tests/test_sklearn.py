import os

import numpy as np
import pytest
import soundfile
import torch

sklearn = pytest.importorskip("sklearn")

from narrow import WIDTHS, cut_widths  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import Normalizer  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

import mtslvr  # noqa: E402
from mtslvr.errors import AudioError, ConfigError  # noqa: E402
from mtslvr.sklearn import MTSLVRTransformer  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def narrow():
    with pytest.MonkeyPatch.context() as patch:
        cut_widths(patch.setattr)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Windows of 513 samples, the shortest: the checks call it hundreds of times."""
    torch.manual_seed(0)
    config = mtslvr.EncoderConfig(window_seconds=0.1)
    return str(mtslvr.Encoder(config).save(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def tones(tmp_path_factory, write):
    root = tmp_path_factory.mktemp("tones")
    paths = [root / f"{i}.wav" for i in range(8)]
    for i, path in enumerate(paths):
        write(path, 0.25, i, hertz=300 if i < 4 else 3000)
    return paths, np.repeat([0, 1], 4)


@pytest.mark.slow
def test_the_checks_of_scikit_learn(tmp_path):
    """Window by window: two checks ask for 1e-9, and rounding depends on the batch."""
    folder = mtslvr.Encoder(mtslvr.EncoderConfig(window_seconds=0.1, head_dim=8)).save(tmp_path)
    transformer = MTSLVRTransformer(str(folder), features="invariant", threads=1, batch_size=1)
    results = check_estimator(transformer, on_skip=None)  # which raises where one fails
    assert sum(result["status"] == "passed" for result in results) > 20


def test_paths_arrays_and_frames_give_the_rows_of_embed(model, tones):
    paths, encoder, transformer = tones[0], mtslvr.load(model), MTSLVRTransformer(model)
    expected = mtslvr.embed(paths, encoder=encoder)
    waves = [soundfile.read(path, dtype="float32")[0] for path in paths]
    for given in (paths, [os.fspath(p) for p in paths], np.array(paths, dtype=str), np.array(paths)[:, None], waves):
        np.testing.assert_array_equal(transformer.fit_transform(given), expected)
    np.testing.assert_array_equal(transformer.transform(np.stack(waves)), expected)
    assert transformer.transform([waves[0], waves[1][:1000]]).shape == (2, 1000)
    twice = MTSLVRTransformer(encoder, sample_rate=32000).transform(waves[:1])
    np.testing.assert_array_equal(twice, mtslvr.embed(waves[:1], 32000, encoder=encoder))


def test_grid_search_over_features_in_a_pipeline(model, tones):
    pipeline = make_pipeline(MTSLVRTransformer(model), Normalizer(), LogisticRegression())
    search = GridSearchCV(pipeline, {"mtslvrtransformer__features": ["invariant", "variant", "concat"]}, cv=2)
    search.fit(*tones)
    assert search.best_score_ == 1.0 and len(search.cv_results_["params"]) == 3


def test_names_follow_the_width_of_each_part():
    def names(encoder, **settings):
        return list(MTSLVRTransformer(encoder, **settings).fit([np.zeros(100)]).get_feature_names_out())

    def numbered(**widths):
        return [f"{part}{i}" for part, width in widths.items() for i in range(width)]

    rows, small = mtslvr.config.Rows(layer3=(0, 3)), {"window_seconds": 0.1, "head_dim": 3}
    wide = mtslvr.Encoder(mtslvr.EncoderConfig(spectral_statistics=True, invariant_rows=rows, **small))
    assert names(wide, layer="pooled") == numbered(invariant=3 * WIDTHS[2], variant=WIDTHS[3] + 3 * 128)
    one = mtslvr.Encoder(mtslvr.EncoderConfig(adapter=mtslvr.AdapterKind.SPLIT, tasks=1, **small))
    assert names(one) == numbered(invariant=3, variant=3)
    assert names(one, features="variant") == numbered(variant=3)
    assert names(one, layer="pooled") == numbered(invariant=WIDTHS[3])  # both heads read the same


def test_weights_saved_to_the_same_folder_are_used(tmp_path, tones):
    paths, rows, transformer = tones[0][:1], [], MTSLVRTransformer(tmp_path)
    for seed in (0, 1):
        torch.manual_seed(seed)
        mtslvr.Encoder(mtslvr.EncoderConfig(window_seconds=0.1)).save(tmp_path)
        for file in tmp_path.iterdir():
            os.utime(file, ns=(10**18, 10**18))  # as a copy may leave it
        rows.append(transformer.fit_transform(paths))
    np.testing.assert_array_equal(rows[1], mtslvr.embed(paths, encoder=mtslvr.load(tmp_path)))
    assert not np.allclose(rows[0], rows[1])


def test_bad_input(model):
    transformer = MTSLVRTransformer(model)
    for given, message in (
        ("one.wav", "one.wav: a single path; pass a list"),
        (np.zeros((2, 3, 4)), r"X of shape \(2, 3, 4\)"),
        (["nowhere.wav"], "nowhere.wav: no such file"),
    ):
        with pytest.raises(AudioError, match=message):
            transformer.transform(given)
    with pytest.raises(ConfigError, match="features='both'"):
        MTSLVRTransformer(model, features="both").fit([np.zeros(100)])
