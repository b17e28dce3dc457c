import os
import shutil

import numpy as np
import pytest
import torch

import mtslvr
from mtslvr.config import AdapterKind, EncoderConfig, Rows
from mtslvr.errors import AudioError, ConfigError
from mtslvr.fewshot import extract_features, log_mel_statistics
from mtslvr.fewshot.cache import FeatureCache, default_cache
from mtslvr.fewshot.features import BASELINE, FEATURES, file_rows
from mtslvr.nn.encoder import Encoder
from mtslvr.nn.frontend import log_mel


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write):
    """Three files of 0.4, 1 and 2.5 s: one, one and three windows of the small encoder."""
    folder = tmp_path_factory.mktemp("clips")
    for i, seconds in enumerate((0.4, 1.0, 2.5)):
        write(folder / f"{i}.wav", seconds)
    return sorted(folder.iterdir())


@pytest.fixture
def windows_seen(encoder):
    """Counts windows that go through the encoder."""
    seen = []
    hook = encoder.trunk.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    yield seen
    hook.remove()


@pytest.mark.parametrize("heads", [{}, {"invariant_rows": Rows((2, 4), (1, 3)), "spectral_statistics": True}])
def test_features_equal_those_of_embed(clips, heads):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder(EncoderConfig(window_seconds=1.0, **heads)).fold()
    found = extract_features(clips, encoder, names=FEATURES)
    assert list(found) == list(FEATURES)
    for name in ("invariant", "variant", "concat", "pooled"):
        how = {"layer": "pooled"} if name == "pooled" else {"features": name}
        expected = mtslvr.embed(clips, encoder=encoder, **how)
        np.testing.assert_allclose(found[name], expected, atol=1e-5 * abs(expected).max())
    assert found["log-mel"].shape == (3, 256)
    single = Encoder(EncoderConfig(adapter=AdapterKind.NONE, tasks=1, heads=1, window_seconds=1.0)).fold()
    shapes = {name: rows.shape for name, rows in extract_features(clips, single, names=FEATURES).items()}
    assert shapes == {"concat": (3, 500), "pooled": (3, 512), "log-mel": (3, 256)}


def test_only_what_is_new_is_computed(clips, encoder, unfolded_encoder, tmp_path, windows_seen):
    def computed(encoder=encoder, **how):
        windows_seen.clear()
        [rows] = file_rows([path], encoder, cache=tmp_path / "cache", **how)
        return sum(windows_seen), rows

    path = shutil.copy(clips[0], tmp_path / "one.wav")
    (count, first), (again, rows) = computed(), computed()
    assert (count, again) == (1, 0)
    np.testing.assert_array_equal(rows, first)
    os.utime(path, (0, 0))
    assert computed()[0] == 1
    path.write_bytes(clips[2].read_bytes())
    count, rows = computed()
    assert count == len(rows) == 3 and computed(window_seconds=0.5)[0] == 5
    changed = Encoder(encoder.config)
    changed.load_state_dict(unfolded_encoder.state_dict())
    with torch.no_grad():
        changed.heads[0].bias += 1
    computed(changed.fold())
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 3


def test_what_was_computed_before_a_kill_or_beside_broken_files_is_kept(clips, encoder, tmp_path, windows_seen):
    rows = np.ones((2, 3), np.float32)
    FeatureCache(tmp_path, {"made": "so"}).add(clips[0], rows)  # and not closed
    np.testing.assert_array_equal(FeatureCache(tmp_path, {"made": "so"}).get(clips[0]), rows)
    assert FeatureCache(tmp_path, {"made": "otherwise"}).get(clips[0]) is None
    (tmp_path / "bad.wav").write_text("no audio")
    (tmp_path / "empty.wav").touch()
    message = r"bad\.wav: not an audio file .*\(1 more files failed\); what was computed is kept.*--on-error skip"
    with pytest.raises(AudioError, match=message):
        extract_features([tmp_path / "bad.wav", tmp_path / "empty.wav", *clips], encoder, cache=tmp_path)
    done = len(windows_seen)
    file_rows(clips, encoder, cache=tmp_path)
    assert len(windows_seen) == done > 0


def test_a_cache_that_cannot_be_used_is_named_and_without_one_nothing_is_written(clips, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("MTSLVR_CACHE", str(tmp_path / "cache"))
    extract_features(clips, encoder)
    assert not (tmp_path / "cache").exists() and default_cache() == tmp_path / "cache"
    file_rows(clips, encoder, cache=tmp_path)
    [cache] = tmp_path.glob("*.sqlite")
    cache.write_bytes(b"damaged" * 1000)
    for folder in (tmp_path, cache):
        with pytest.raises(ConfigError, match=r"sqlite: cannot be written .* delete it, .*--no-cache"):
            file_rows(clips, encoder, cache=folder)
    for names, message in ((["mfcc"], "features='mfcc': unknown"), ([], "none given")):
        with pytest.raises(ConfigError, match=message):
            extract_features(clips, encoder, names=names)


def test_log_mel_statistics_ignore_level_and_stay_finite():
    noise = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    statistics = log_mel_statistics(noise)
    torch.testing.assert_close(log_mel_statistics(0.01 * noise + 0.5), statistics, rtol=1e-3, atol=1e-2)
    for silent in (torch.zeros(1, 8000), torch.ones(1, 1)):
        assert torch.isfinite(log_mel_statistics(silent)).all()
    spectrogram = log_mel((noise - noise.mean(1, keepdim=True)) / noise.std(1, keepdim=True), BASELINE)
    mean, deviation = statistics.split(128, dim=1)
    torch.testing.assert_close(mean, spectrogram.mean(dim=2))
    torch.testing.assert_close(deviation, spectrogram.std(dim=2, correction=0))
