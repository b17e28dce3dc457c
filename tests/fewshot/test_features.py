import warnings

import numpy as np
import pytest
import soundfile
import torch

import mtslvr
from mtslvr.config import AdapterKind, EncoderConfig, Rows
from mtslvr.errors import AudioError, ConfigError
from mtslvr.fewshot import extract_features, features
from mtslvr.fewshot.features import FEATURES, log_mel_rows, pooled_rows
from mtslvr.nn.encoder import Encoder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three files of 0.4, 1 and 2.5 s: one, one and three windows of the small encoder."""
    root, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    paths = [root / f"{i}.wav" for i in range(3)]
    for path, seconds in zip(paths, (0.4, 1.0, 2.5), strict=True):
        soundfile.write(path, 0.1 * rng.standard_normal(int(16000 * seconds)), 16000)
    return paths


@pytest.fixture
def windows_seen(monkeypatch):
    """Counts windows that go through the encoder."""
    seen = []
    original = Encoder.encode_spectrogram

    def counting(self, spectrogram, *arguments, **settings):
        seen.append(len(spectrogram))
        return original(self, spectrogram, *arguments, **settings)

    monkeypatch.setattr(Encoder, "encode_spectrogram", counting)
    return seen


def test_features_equal_those_of_embed(clips, encoder):
    check_against_embed(clips, encoder)


def test_features_of_a_variant_head_that_reads_statistics_too(clips):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wider = Encoder(EncoderConfig(spectral_statistics=True, window_seconds=1.0)).fold()
    check_against_embed(clips, wider)


def test_features_of_heads_that_read_rows(clips):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = EncoderConfig(invariant_rows=Rows((2, 4), (1, 3)), spectral_statistics=True, window_seconds=1.0)
        check_against_embed(clips, Encoder(config).fold())


def check_against_embed(clips, encoder):
    found = extract_features(clips, encoder, names=FEATURES)
    assert list(found) == list(FEATURES)
    for name in ("invariant", "variant", "concat"):
        expected = mtslvr.embed(clips, features=name, encoder=encoder)
        np.testing.assert_allclose(found[name], expected, atol=1e-5 * abs(expected).max())
    expected = mtslvr.embed(clips, layer="pooled", encoder=encoder)
    np.testing.assert_allclose(found["pooled"], expected, atol=1e-5 * abs(expected).max())
    assert found["log-mel"].shape == (3, 256)


def test_features_of_an_encoder_with_one_output(clips):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        single = Encoder(EncoderConfig(adapter=AdapterKind.NONE, tasks=1, heads=1, window_seconds=1.0)).fold()
    found = extract_features(clips, single, names=FEATURES)
    assert {name: f.shape for name, f in found.items()} == {"concat": (3, 500), "pooled": (3, 512), "log-mel": (3, 256)}


def test_rows_of_windows(clips, encoder):
    rows = pooled_rows(clips, encoder)
    assert rows.pieces.tolist() == [1, 1, 3]
    assert rows.rows.shape == (5, 1024)
    assert log_mel_rows(clips, window_seconds=1.0).rows.shape == (5, 256)
    np.testing.assert_allclose(rows.mean()[2], rows.rows[2:].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_nothing_is_computed_twice(clips, encoder, tmp_path, windows_seen):
    first = extract_features(clips[:2], encoder, cache=tmp_path)
    assert sum(windows_seen) == 2
    again = extract_features(clips[:2], encoder, cache=tmp_path)
    assert sum(windows_seen) == 2
    for name, rows in first.items():
        np.testing.assert_array_equal(again[name], rows)
    extract_features(clips, encoder, cache=tmp_path)
    assert sum(windows_seen) == 2 + 3  # only the new file's


def test_a_changed_file_another_window_and_other_weights_are_computed_anew(
    clips, encoder, unfolded_encoder, tmp_path, windows_seen
):
    path = tmp_path / "one.wav"
    path.write_bytes(clips[0].read_bytes())
    rows = pooled_rows([path], encoder, cache=tmp_path / "cache").rows
    path.write_bytes(clips[1].read_bytes())
    assert not np.array_equal(pooled_rows([path], encoder, cache=tmp_path / "cache").rows, rows)
    pooled_rows([path], encoder, cache=tmp_path / "cache", window_seconds=0.5)
    assert sum(windows_seen) == 1 + 1 + 2
    changed = Encoder(encoder.config)
    changed.load_state_dict(unfolded_encoder.state_dict())
    with torch.no_grad():
        changed.heads[0].bias += 1
    pooled_rows([path], changed.fold(), cache=tmp_path / "cache")
    assert sum(windows_seen) == 5


def test_what_was_computed_before_a_stop_is_kept(clips, encoder, tmp_path, windows_seen, monkeypatch):
    def stops(items, total, description):
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pooled_rows(clips, encoder, cache=tmp_path, batch_size=1, progress=stops)
    done = len(windows_seen)
    pooled_rows(clips, encoder, cache=tmp_path, batch_size=1)
    assert len(windows_seen) - done == 1 + 3


def test_broken_files_are_counted_and_the_rest_is_kept(clips, encoder, tmp_path, windows_seen):
    (tmp_path / "bad.wav").write_text("no audio")
    (tmp_path / "empty.wav").touch()
    paths = [clips[0], tmp_path / "bad.wav", tmp_path / "empty.wav"]
    message = r"bad\.wav: not an audio file .*\(1 more files failed\); what was computed is kept.*--on-error skip"
    with pytest.raises(AudioError, match=message):
        extract_features(paths, encoder, cache=tmp_path / "cache")
    extract_features(clips[:1], encoder, cache=tmp_path / "cache")
    assert sum(windows_seen) == 1


def test_a_damaged_cache_is_named_and_computed_again(clips, encoder, tmp_path):
    rows = pooled_rows(clips, encoder, cache=tmp_path).rows
    [index] = tmp_path.rglob("*.json")
    index.with_suffix(".npy").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=rf"{index.name}: damaged .* computed again; delete it"):
        np.testing.assert_array_equal(pooled_rows(clips, encoder, cache=tmp_path).rows, rows)


def test_a_cache_that_cannot_be_written_costs_a_warning(clips, encoder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be cached .* name another folder with --cache"):
        assert len(pooled_rows(clips, encoder, cache=tmp_path / "file").rows) == 5


def test_without_a_cache_nothing_is_written(clips, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("MTSLVR_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract_features(clips, encoder)
    assert not (tmp_path / "cache").exists()
    assert features.default_cache() == tmp_path / "cache"


@pytest.mark.parametrize(("names", "message"), [(["mfcc"], "features='mfcc': unknown"), ([], "none given")])
def test_unknown_features(clips, encoder, names, message):
    with pytest.raises(ConfigError, match=message):
        extract_features(clips, encoder, names=names)
