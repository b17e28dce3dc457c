import csv
import io
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mtslvr import embed
from mtslvr.errors import AudioError, ConfigError
from mtslvr.fewshot import CompareConfig, Row, compare, evaluate, read_results, read_set
from mtslvr.fewshot.episodes import EpisodeConfig
from mtslvr.fewshot.results import per_class, render, weight_shares


@pytest.fixture(scope="module")
def tones(tmp_path_factory, write):
    """Folders of two classes, low and high tones in noise: clips of a quarter second, and of two and a half."""
    root = tmp_path_factory.mktemp("tones")
    for name, takes, seconds in (("short", 4, 0.25), ("long", 3, 2.5)):
        for label, hertz in (("low", 300), ("high", 3000)):
            for take in range(takes):
                write(root / name / label / f"{take}.wav", seconds, take, hertz=hertz)
    return root


def two_way(shots=(1,), episodes=20, sampler="uniform", **settings):
    drawn = [EpisodeConfig(settings.pop("n_way", 2), n, episodes=episodes, sampler=sampler) for n in shots]
    return CompareConfig(episodes=drawn, **settings)


def test_a_file_is_the_mean_over_windows_of_the_length_given(tmp_path, encoder, write):
    for take in range(16):  # noise alone: which windows it is cut into decides what is right
        write(tmp_path / "ab"[take % 2] / f"{take}.wav", 1.25, take)
    labelled = read_set(tmp_path, window_seconds=0.3)
    config = two_way(episodes=50, classifiers=["centroid"], features=["variant"])
    [row] = compare([labelled], {"small": encoder}, config)
    variant = embed(labelled.paths, features="variant", encoder=encoder, window_seconds=0.3)
    expected = evaluate(variant, labelled.labels, EpisodeConfig(2, episodes=50), "centroid")
    np.testing.assert_array_equal(row.result.accuracies, expected.accuracies)
    [default] = compare([read_set(tmp_path)], {"small": encoder}, config)
    assert (default.result.accuracies != row.result.accuracies).any()


def test_compare_covers_every_combination_and_every_format_holds_it(tones, encoder, tmp_path):
    choices = {"features": ("concat", "pooled", "log-mel"), "classifiers": ("cosine", "sgd"), "shots": (1, 2)}
    sets = [read_set(tones / name, name=name) for name in ("short", "long")]
    compared = compare(sets, {"small": encoder, "other": encoder}, two_way(weights=True, **choices))
    found = [(r.dataset, r.model, r.features, r.classifier, r.n_shot) for r in compared]
    models = [*itertools.product(("small", "other"), ("concat", "pooled")), ("", "log-mel")]
    expected = itertools.product(("short", "long"), models, ("cosine", "sgd"), (1, 2))
    assert sorted(found) == sorted((dataset, *model, kind, shots) for dataset, model, kind, shots in expected)
    facts = {"classes": 2, "clips": 6, "pieces": False, "window_seconds": None, "note": ""}
    assert compared.datasets["long"] == facts
    assert {"mtslvr", "torch", "numpy", "python"} <= compared.environment.keys()
    for row in compared:
        measured = row.features == "concat" and row.classifier == "sgd"
        assert set(row.result.weight_share) == ({"invariant", "variant"} if measured else set())
        assert not measured or sum(row.result.weight_share.values()) == pytest.approx(1)
    lines = weight_shares(compared.rows)
    assert lines[0] == ["dataset", "model", "classifier", "shots", "invariant", "variant"] and len(lines) == 1 + 8
    path = tmp_path / "results.json"
    path.write_text(render(compared, ".json"), encoding="utf-8")
    again = read_results(path)
    for one, other in zip(again, compared, strict=True):
        assert (one.to_dict(), str(one.result)) == (other.to_dict(), str(other.result))
    assert (again.datasets, again.environment) == (compared.datasets, compared.environment)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    for line, row in zip(csv.DictReader(io.StringIO(render(compared, ".csv"))), compared, strict=True):
        assert (line["dataset"], line["features"]) == (row.dataset, row.features)
        assert (float(line["accuracy"]), line["n_shot"], line["seed"]) == (row.result.mean, str(row.n_shot), "42")
    lines = compared.table()
    columns = [f"{name}, {kind}" for name in ("short", "long") for kind in ("cosine", "sgd")]
    assert lines[0] == ["model", "features", "shots", *columns] and len(lines) == 1 + 10
    assert lines[1][3] == str(compared.rows[0].result)
    md, txt = (render(compared, suffix).splitlines() for suffix in (".md", ".txt"))
    assert [cell.strip() for cell in md[2].strip("|").split("|")] == lines[1]
    assert txt[1].startswith(lines[1][0] + "  ")

    for text, message in (
        ("no json", "no file of results"),
        ("[]", "no results of mtslvr in it"),
        ('{"kind": "fewshot", "format": 99}', "kind 'fewshot', format 99; expected 'fewshot', format 2"),
        ('{"kind": "fewshot", "format": 2, "rows": [{}], "datasets": {}, "environment": {}}', "damaged results"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_results(path)


def test_per_class_counts_the_queries_of_each_class():
    labels, features = np.repeat(["a", "b", "c"], 4), np.repeat(np.eye(3), 4, axis=0)
    features[8:10] = features[0]  # half of c looks like a
    result = evaluate(features, labels, EpisodeConfig(3, 1, 1, 500), "centroid")
    assert result.per_class["c"] < 100 and sum(result.per_class.values()) / 3 == pytest.approx(result.mean)
    assert per_class([Row("f", "centroid", result, "x")])["x, centroid, 1-shot"][2] == ["b", "100.0"]


def test_variable_lengths_and_the_sampler_as_published(tones, encoder):
    labelled = replace(read_set(tones / "long"), pieces=True, window_seconds=1.0)
    config = two_way(features=("concat", "log-mel"), sampler="published", classifiers=("logistic",))
    results = compare([labelled], {"small": encoder}, config)
    assert results.datasets[labelled.name]["pieces"] is True and results.table()[0] == ["features", "long"]
    assert {row.features: row.result.mean for row in results}["log-mel"] == 100


def test_a_broken_file_stops_or_is_left_out(tones, encoder, tmp_path):
    root = shutil.copytree(tones / "short", tmp_path / "tones")
    (root / "low" / "broken.wav").write_text("no audio")
    with pytest.raises(AudioError, match=r"broken\.wav: not an audio file"):
        compare([read_set(root)], {"small": encoder}, two_way())
    with pytest.warns(UserWarning, match=r"left out: .*broken\.wav"):
        results = compare([read_set(root)], {"small": encoder}, two_way(on_error="skip"))
    assert results.datasets["tones"]["clips"] == 8


def test_bad_input_is_named_before_any_work(tones):
    one, given = [read_set(tones / "short", name="tones")], ["no/model"]
    for sets, models, settings, said in (
        (one, given, {"n_way": 5}, "tones: n_way=5 takes 5 classes, .*; here are 2 classes"),
        (one, given, {"shots": (1, 10)}, "tones: n_way=2 .*take 11 files of each; .*, and 0 of"),
        (2 * one, given, {}, "datasets tones, tones: each needs a name of its own"),
        ([], given, {}, "datasets none"),
        (one, 2 * given, {}, "models no/model, no/model: one is given twice"),
        (one, given, {"sampler": "random"}, "sampler='random': unknown; use one of uniform, published"),
        (one, given, {"scaling": "max"}, "scaling='max': unknown"),
        (one, given, {"shots": ()}, "no classifier or no episodes"),
        (one, given, {"weights": True, "classifiers": ("centroid",)}, "weights: none of the classifiers"),
        (one, given, {"features": ("mfcc",)}, "features='mfcc': unknown"),
    ):
        with pytest.raises(ConfigError, match=said):
            compare(sets, models, two_way(**settings))
