import dataclasses

import numpy as np
import pytest
import torch

from mtslvr.config import Normalization
from mtslvr.training.augment import TRANSFORMATIONS
from mtslvr.training.config import TrainConfig
from mtslvr.training.data import PackedClips, pack
from mtslvr.training.views import StepBatches, equalize, mix, split

RATE = 16000
EVERYTHING = {"crops": 2, "mix_probability": 0.5, "equalizer_db": 4.0, "source_balance": 0.5}


@pytest.fixture(scope="module")
def clips(clips_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    pack([clips_folder], folder, RATE)
    return PackedClips.open(folder)


def config(**changes):
    plain = {"crops": 1, "mix_probability": 0.0, "equalizer_db": 0.0, "predicted_views": 2, "heads": None}
    return TrainConfig(**{"steps": 20, "batch_size": 4, "crop_seconds": 0.5, **plain, **changes})


@pytest.mark.parametrize("settings", [{}, EVERYTHING])
def test_a_batch_is_a_function_of_seed_and_step_and_silence_stays_finite(clips, settings):
    batches, again = StepBatches(clips, config(**settings)), StepBatches(clips, config(**settings))
    first = batches[7]
    batches[3]
    assert torch.equal(first.views, again[7].views)
    assert first.views.shape == (2, 4, 8000) and first.targets.shape == (4, 7) and first.targets.any(1).all()
    assert not torch.equal(first.views[0], first.views[1])
    assert not torch.equal(first.views, batches[8].views)
    assert not torch.equal(first.views, StepBatches(clips, config(**settings, seed=1))[7].views)
    # Views have the level that waveforms have at use.
    torch.testing.assert_close(first.views.mean(-1), torch.zeros(2, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(first.views.std(-1), torch.ones(2, 4), atol=1e-4, rtol=0)
    assert torch.equal(batches.on(torch.device("cpu"))[7].views, first.views)  # as on a GPU, in memory
    silent = PackedClips(0 * clips.samples, clips.starts, clips.names, RATE, clips.folder)
    assert StepBatches(silent, config(**settings))[0].views.isfinite().all()


def test_the_two_views_of_a_clip_have_backgrounds_of_their_own(clips):
    others = tuple(name for name in TRANSFORMATIONS if name != "time_shift")
    still = dataclasses.replace(TrainConfig().augment, excluded=others, shift_fraction=0.0)
    batches = StepBatches(clips, config(augment=still, mix_probability=1.0, mix_snr_db=(0.0, 10.0)))
    tones, found = torch.sin(torch.arange(8000) * torch.tensor([[0.1], [0.3], [0.7], [1.3]])), set()
    for seed in range(10):
        views = batches.augmented(tones.expand(2, -1, -1), torch.Generator().manual_seed(seed)).views
        heard = views @ tones.T  # (2, clip, tone): its own is the loudest, its background the next
        assert torch.equal(heard.argmax(-1), torch.arange(4).expand(2, -1))
        order = heard.argsort(-1, descending=True)[..., 1]
        found.add(torch.equal(order[0], order[1]))
        assert not torch.allclose(*heard, rtol=0.01)  # at levels of their own, too
    assert found == {True, False}


def test_every_clip_comes_once_an_epoch_those_held_out_never_and_balanced_sources_alike_often(clips):
    settings = config(batch_size=2, validation_fraction=0.4, validate_every=1)
    held_out, others = split(5, settings)
    assert len(held_out) == 2 and sorted([*held_out, *others]) == [0, 1, 2, 3, 4]
    balanced = dataclasses.replace(settings, source_balance=1.0)
    for how, validation, members in ((balanced, False, others), (settings, True, held_out)):
        batches = StepBatches(clips, how, validation=validation)
        assert all(set(batches.clip_indices(step)) <= set(members) for step in range(10))
    training = StepBatches(clips, settings)
    epochs = np.concatenate([training.clip_indices(step) for step in range(12)]).reshape(8, 3)
    assert all(sorted(epoch) == sorted(others) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    balanced = StepBatches(clips, config(batch_size=2, source_balance=1.0))
    drawn = np.array([balanced.clip_indices(step) for step in range(2000)])
    assert (drawn[:, 0] != drawn[:, 1]).all()
    np.testing.assert_allclose(balanced.weights, [1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2])
    assert np.mean(drawn[:, 0] >= 3) == pytest.approx(0.5, abs=0.03)  # clips 3 and 4 are of one source


def test_crops_are_normalised_as_the_encoder_is_and_short_clips_repeat(clips):
    statistics = {"normalization": Normalization.GLOBAL, "global_mean": 0.25, "global_std": 0.5}
    batches = StepBatches(clips, config(batch_size=5, encoder=dataclasses.replace(TrainConfig().encoder, **statistics)))
    crops = batches.crops(np.arange(5), torch.Generator().manual_seed(0))
    first = clips.samples[:3200].astype(np.float32) / 32768
    np.testing.assert_allclose(crops[0, :6400], np.tile((first - 0.25) / 0.5, 2), atol=1e-6)


def test_background_is_another_clip_of_the_batch_at_the_drawn_level():
    crops = torch.eye(4).repeat_interleave(1000, 1) * 2  # clip i sounds in quarter i alone
    mixed = mix(crops, torch.Generator().manual_seed(0), 1.0, (6.0, 6.0))
    own, background = mixed.view(4, 4, 1000).square().mean(-1).sort(dim=1, descending=True).values[:, :2].unbind(1)
    torch.testing.assert_close(10 * torch.log10(own / background), torch.full((4,), 6.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(mixed.square().mean(1), crops.square().mean(1), rtol=1e-5, atol=0)
    assert torch.equal(mix(crops, torch.Generator().manual_seed(0), 0.0, (6.0, 6.0)), crops)
    assert mix(0 * crops, torch.Generator().manual_seed(0), 1.0, (6.0, 6.0)).isfinite().all()


def test_equaliser_changes_levels_smoothly_and_nothing_else():
    torch.manual_seed(0)
    views, curves = torch.randn(3, 8000), torch.randn(3, 4) * 6
    curves[0] = 0
    filtered = equalize(views, curves, RATE)
    torch.testing.assert_close(filtered[0], views[0], rtol=1e-4, atol=1e-4)
    response = torch.fft.rfft(filtered) / torch.fft.rfft(views)
    assert response.imag.abs().max() < 1e-2  # no delay
    level = 20 * torch.log10(response.real[1:, 30:])
    assert level.std() > 1 and level.diff().abs().max() < 1.0
