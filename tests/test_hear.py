"""The rules of the HEAR validator (hear-validator, validate.py), restated; its package needs tensorflow."""

import inspect

import numpy as np
import pytest
import torch

import mtslvr
from mtslvr import hear
from mtslvr.errors import AudioError


@pytest.fixture(scope="module")
def model(encoder):
    return hear.HearModel(encoder)


def noise(clips, seconds, rate):
    return torch.rand((clips, int(seconds * rate)), generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_load_model_gives_a_module_from_nothing_a_folder_or_its_weights(tmp_path, monkeypatch):
    folder = mtslvr.Encoder(mtslvr.EncoderConfig()).save(tmp_path / "model")
    assert inspect.signature(hear.load_model).parameters["model_file_path"].default == ""
    asked = []
    monkeypatch.setattr(hear, "load", lambda name, device: asked.append(name) or mtslvr.load(folder, device=device))
    for path in ("", str(folder), str(folder / "model.safetensors")):
        model = hear.load_model(path)
        assert isinstance(model, torch.nn.Module) and model.sample_rate == 16000
    assert asked == [None, str(folder), folder]


@pytest.mark.parametrize("seconds", [1 / 16000, 0.025, 1.07])
def test_timestamp_embeddings(model, seconds):
    embeddings, stamps = hear.get_timestamp_embeddings(noise(2, seconds, model.sample_rate), model)
    assert embeddings.dtype == torch.float32 and not embeddings.requires_grad and torch.isfinite(embeddings).all()
    assert embeddings.shape == (2, stamps.shape[1], model.timestamp_embedding_size) and stamps.ndim == 2
    times, length = stamps.numpy(), 1000 * seconds
    if seconds < 0.05:
        assert times.shape == (2, 1) and 0 <= times.max() <= length
        return
    steps, hop = np.diff(times), np.diff(times).mean()
    assert steps.max() <= 50.0 + 1e-3  # float32
    assert np.abs(steps - hop).max() <= 1 and times.min() <= hop
    assert max(length - hop, length - 50) <= times.max() <= length


def test_scene_embeddings_are_those_of_embed_and_timestamps_those_of_the_second_around(model, encoder):
    audio = noise(2, 3, 16000)
    scenes = hear.get_scene_embeddings(audio, model)
    assert scenes.dtype == torch.float32 and scenes.shape == (2, model.scene_embedding_size)
    np.testing.assert_array_equal(scenes.numpy(), mtslvr.embed(list(audio.numpy()), 16000, encoder=encoder))
    embeddings, stamps = hear.get_timestamp_embeddings(audio[:1], model)
    i = stamps[0].tolist().index(1525)
    expected = encoder(audio[:1, round(1.525 * 16000) - 8000 :][:, :16000]).concat[0]
    torch.testing.assert_close(embeddings[0, i], expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_timestamps_do_not_drift_and_windows_are_mirrored_at_the_ends():
    """The validator warns of the first and cannot test it: hops that are no whole number of samples add up."""
    centres = hear.timestamps(3600.0)
    assert len(centres) == 72000
    torch.testing.assert_close(centres[-1], torch.tensor(3599.975, dtype=torch.float64), rtol=0, atol=1e-9)
    places = hear.window_indices(3600 * 22050, centres[-3000:-2999], 22050)  # 1102.5 samples a hop
    assert abs(int(places[0, places.shape[1] // 2]) / 22050 - float(centres[-3000])) < 1 / 22050
    places = hear.window_indices(10, torch.tensor([0.0, 0.5]), 20)  # one second is twice the clip
    assert places[0].tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert places[1].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_no_clips_have_no_embeddings(model):
    embeddings, stamps = hear.get_timestamp_embeddings(torch.zeros(0, 16000), model)
    assert embeddings.shape == (0, 20, model.timestamp_embedding_size) and stamps.shape == (0, 20)


@pytest.mark.parametrize("audio", [torch.zeros(16000), torch.zeros(2, 0), torch.full((1, 16000), torch.nan)])
def test_bad_audio(model, audio):
    for function in (hear.get_scene_embeddings, hear.get_timestamp_embeddings):
        with pytest.raises(AudioError):
            function(audio, model)
