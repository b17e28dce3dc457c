from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import mtslvr
from mtslvr.config import EncoderConfig
from mtslvr.errors import ConfigError
from mtslvr.fewshot import extract_features, format_table, labelled_files, labels_from_names, run


@pytest.fixture
def tree(tmp_path):
    for name in (
        "dog/2.wav",
        "dog/deep/1.FLAC",
        "cat/a.ogg",
        "cat/.hidden.wav",
        ".cache/x.wav",
        "dog/notes.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "README.md").touch()
    return tmp_path


def test_one_folder_a_class(tree):
    paths, labels, names = labelled_files(tree)
    assert [p.relative_to(tree).as_posix() for p in paths] == ["cat/a.ogg", "dog/2.wav", "dog/deep/1.FLAC"]
    assert labels.tolist() == [0, 1, 1]
    assert names == ["cat", "dog"]


def test_an_empty_class_is_dropped_and_named(tree):
    (tree / "bee").mkdir()
    with pytest.warns(UserWarning, match="bee: no audio files, class dropped"):
        _, labels, names = labelled_files(tree)
    assert names == ["cat", "dog"]
    assert labels.max() == 1


def test_audio_beside_the_class_folders(tree):
    (tree / "b.wav").touch()
    (tree / "a.wav").touch()
    with pytest.raises(ConfigError, match=r"a\.wav: audio without a class; move it"):
        labelled_files(tree)


def test_no_classes(tmp_path):
    with pytest.raises(ConfigError, match="no class folder with audio; expected FOLDER/CLASS"):
        labelled_files(tmp_path)


def test_not_a_folder(tree):
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        labelled_files(tree / "nowhere")
    with pytest.raises(ConfigError, match=r"README\.md: not a folder"):
        labelled_files(tree / "README.md")


def test_labels_from_a_field_of_the_name():
    paths = [Path("x/0_theo_3.wav"), Path("1_anna_0.wav"), Path("0_anna_1.wav")]
    labels, names = labels_from_names(paths, 1)
    assert (labels.tolist(), names) == ([1, 0, 0], ["anna", "theo"])
    labels, names = labels_from_names(paths, -1)
    assert (labels.tolist(), names) == ([2, 0, 1], ["0", "1", "3"])
    labels, names = labels_from_names([Path("a-b.wav")], 1, sep="-")
    assert names == ["b"]


@pytest.mark.parametrize(
    ("paths", "field", "sep", "message"),
    [
        (["0_a_1.wav", "plain.wav"], 1, "_", r"plain\.wav: no field 1 in \['plain'\]"),
        (["0__1.wav"], 1, "_", "no field 1"),
        (["0_a.wav"], -3, "_", "no field -3"),
        ([], 0, "_", "no audio files"),
        (["0_a.wav"], 0, "", "sep='': must not be empty"),
    ],
)
def test_names_without_the_field(paths, field, sep, message):
    with pytest.raises(ConfigError, match=message):
        labels_from_names([Path(p) for p in paths], field, sep)


@pytest.fixture
def tones(tmp_path):
    """Two classes of 4 clips of 0.25 s: low and high tones in noise, named class_speaker_take."""
    rng = np.random.default_rng(0)
    for label, hertz in enumerate((300, 3000)):
        for take in range(4):
            path = tmp_path / str(label) / f"{label}_s{take % 2}_{take}.wav"
            path.parent.mkdir(exist_ok=True)
            wave = np.sin(2 * np.pi * hertz * np.arange(4000) / 16000) + 0.1 * rng.standard_normal(4000)
            soundfile.write(path, 0.3 * wave, 16000)
    return tmp_path


@pytest.fixture
def encoder(monkeypatch):
    """An encoder whose invariant half is the class folder's name, and whose variant half is noise."""

    def embed(paths, **settings):
        assert settings["features"] == "concat"
        rng = np.random.default_rng(1)
        halves = [[float(Path(p).parent.name), 1.0] for p in paths], rng.standard_normal((len(paths), 2))
        return np.concatenate(halves, axis=1).astype(np.float32)

    made = SimpleNamespace(config=EncoderConfig())
    monkeypatch.setattr(mtslvr, "embed", embed, raising=False)
    monkeypatch.setattr(mtslvr, "load", lambda model, device: made, raising=False)
    return made


def test_command_measures_every_feature_with_every_classifier(tones, encoder):
    rows = run(tones, n_way=2, episodes=20, classifiers=["sgd", "logistic"])
    assert [(r.features, r.classifier) for r in rows] == [
        (f, c) for f in ("invariant", "variant", "concat", "log-mel") for c in ("sgd", "logistic")
    ]
    means = {(r.features, r.classifier): r.result.mean for r in rows}
    assert means["invariant", "logistic"] == 100.0
    assert means["variant", "logistic"] < 90
    assert means["log-mel", "logistic"] == 100.0
    assert format_table(rows).splitlines()[4].startswith("log-mel ")


def test_command_takes_labels_from_names(tones, encoder):
    rows = run(tones, label_field=1, n_way=2, episodes=5, classifiers=["centroid"])
    assert len(rows) == 4


def test_command_refuses_an_unknown_classifier_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match="classifier='svm': unknown"):
        run(tmp_path / "nowhere", classifiers=["svm"])


def test_features_of_an_encoder_with_one_output(tones, encoder):
    encoder.config = EncoderConfig(tasks=1, heads=1, adapter=type(encoder.config.adapter)("none"))
    paths, _, _ = labelled_files(tones)
    features = extract_features(paths, encoder)
    assert {name: f.shape for name, f in features.items()} == {"concat": (8, 4), "log-mel": (8, 256)}
