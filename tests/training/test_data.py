"""Packing folders and the batch of a step."""

import json
import pickle

import numpy as np
import pytest
import soundfile
import torch

from mtslvr.errors import TrainingError
from mtslvr.training.config import TrainConfig
from mtslvr.training.data import PackedClips, StepBatches, pack

RATE = 16000


@pytest.fixture
def folder(tmp_path):
    """Five clips of different lengths and rates, and one that is no audio."""
    root = tmp_path / "audio"
    (root / "inner").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i, (seconds, rate) in enumerate([(0.2, 16000), (0.7, 8000), (1.0, 16000), (1.5, 44100), (0.6, 16000)]):
        samples = 0.1 * generator.standard_normal(int(seconds * rate))
        soundfile.write(root / ("inner" if i % 2 else "") / f"{i}.wav", samples, rate)
    (root / "broken.wav").write_bytes(b"no audio at all")
    return root


@pytest.fixture
def clips(folder, tmp_path):
    pack([folder], tmp_path / "packed", RATE)
    return PackedClips.open(tmp_path / "packed")


def config(**changes):
    return TrainConfig(**{"steps": 20, "batch_size": 4, "crop_seconds": 0.5, **changes})


def test_pack_keeps_every_readable_clip_and_names_the_rest(folder, tmp_path):
    failed = pack([folder], tmp_path / "packed", RATE)
    clips = PackedClips.open(tmp_path / "packed")
    assert clips.names == ["0.wav", "2.wav", "4.wav", "inner/1.wav", "inner/3.wav"]
    np.testing.assert_allclose(np.diff(clips.starts) / RATE, [0.2, 1.0, 0.6, 0.7, 1.5], atol=2e-3)
    assert len(failed) == 1 and "broken.wav" in failed[0]
    original, _ = soundfile.read(folder / "2.wav")
    np.testing.assert_allclose(clips.samples[clips.starts[1] : clips.starts[2]] / 32767, original, atol=1 / 32767)


def test_a_folder_without_audio_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match=r"no readable audio in .*empty"):
        pack([tmp_path / "empty"], tmp_path / "packed", RATE)
    assert not (tmp_path / "packed" / "clips.i16").exists()


def test_a_pack_cut_short_is_refused(clips, tmp_path):
    data = (tmp_path / "packed" / "clips.i16").read_bytes()
    (tmp_path / "packed" / "clips.i16").write_bytes(data[:-2])
    with pytest.raises(TrainingError, match=r"index says .* pack again"):
        PackedClips.open(tmp_path / "packed")


def test_fewer_clips_than_a_batch_are_refused(clips):
    with pytest.raises(TrainingError, match="5 clips are fewer than a batch of 6"):
        StepBatches(clips, config(batch_size=6))


def test_a_batch_is_a_function_of_seed_and_step(clips):
    batches, again = StepBatches(clips, config()), StepBatches(clips, config())
    first = batches[7]
    batches[3]
    repeated = again[7]
    torch.testing.assert_close(first.view1, repeated.view1, rtol=0, atol=0)
    torch.testing.assert_close(first.view2, repeated.view2, rtol=0, atol=0)
    assert not torch.equal(first.view1, first.view2)
    assert not torch.equal(first.view1, batches[8].view1)
    assert not torch.equal(first.view1, StepBatches(clips, config(seed=1))[7].view1)


def test_views_have_the_crop_length_and_labels_tell_the_transformations(clips):
    batch = StepBatches(clips, config())[0]
    assert batch.view1.shape == batch.view2.shape == (4, 8000)
    assert batch.augmentation_labels.shape == (4, 7)
    assert set(batch.augmentation_labels.unique().tolist()) <= {0.0, 1.0}
    assert (batch.augmentation_labels.sum(1) >= 1).all()
    assert torch.isfinite(batch.view1).all()


def test_every_clip_comes_once_an_epoch(clips):
    batches = StepBatches(clips, config())
    drawn = np.concatenate([batches.clip_indices(step) for step in range(5)])  # 20 draws: 4 epochs of 5 clips
    for epoch in drawn.reshape(4, 5):
        assert sorted(epoch) == [0, 1, 2, 3, 4]
    assert len({tuple(epoch) for epoch in drawn.reshape(4, 5)}) > 1


def test_crops_are_standardised_and_short_clips_repeat(clips):
    batches = StepBatches(clips, config(batch_size=5))
    generator = torch.Generator().manual_seed(0)
    crops = batches.crops(0, generator)
    torch.testing.assert_close(crops.mean(1), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(crops.std(1), torch.ones(5), atol=1e-4, rtol=0)
    short = crops[list(batches.clip_indices(0)).index(0)]  # clip 0 has 0.2 s
    torch.testing.assert_close(short[:3200], short[3200:6400], atol=0, rtol=0)


def test_silence_stays_finite(tmp_path):
    (tmp_path / "audio").mkdir()
    for i in range(2):
        soundfile.write(tmp_path / "audio" / f"{i}.wav", np.zeros(8000), RATE)
    pack([tmp_path / "audio"], tmp_path / "packed", RATE)
    batch = StepBatches(PackedClips.open(tmp_path / "packed"), config(batch_size=2))[0]
    assert torch.isfinite(batch.view1).all() and torch.isfinite(batch.view2).all()


def test_config_round_trips_through_json_and_refuses_unknown_keys():
    from mtslvr.errors import ConfigError

    ours = config(temperature=0.2, contrastive="simsiam")
    assert TrainConfig.from_dict(json.loads(json.dumps(ours.to_dict()))) == ours
    with pytest.raises(ConfigError, match="unknown key 'temperatur'"):
        TrainConfig.from_dict({"temperatur": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 1}, "batch_size=1"),
        ({"crop_seconds": -1.0}, "crop_seconds=-1.0"),
        ({"contrastive": "moco"}, "contrastive='moco': unknown; use one of simclr, simsiam, none"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"contrastive": "none", "augmentation_weight": 0.0}, "nothing to train"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    from mtslvr.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_pickled_clips_reopen_the_file(clips):
    pickled = pickle.dumps(clips)
    assert len(pickled) < 1000 < clips.samples.nbytes
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.samples, clips.samples)
    assert again.names == clips.names


def test_a_partial_recipe_keeps_the_other_defaults():
    partial = TrainConfig.from_dict({"augment": {"pitch": "published ratios"}, "steps": 7})
    assert partial.steps == 7 and partial.augment.pitch.value == "published ratios"
    assert partial.augment.pitch_n_fft == TrainConfig().augment.pitch_n_fft
    assert partial.batch_size == TrainConfig().batch_size


@pytest.mark.parametrize("data", [[1], {"augment": 3}, {"augment": {"pitches": 1}}])
def test_a_recipe_of_the_wrong_form_is_refused(data):
    from mtslvr.errors import ConfigError

    with pytest.raises(ConfigError, match="training config: "):
        TrainConfig.from_dict(data)
