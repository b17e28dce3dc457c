import pickle
import shutil

import numpy as np
import pytest
import soundfile

from mtslvr.errors import TrainingError
from mtslvr.training.data import PackedClips, pack

RATE = 16000


@pytest.fixture
def folder(clips_folder, tmp_path):
    """The clips, and one that is no audio."""
    shutil.copytree(clips_folder, tmp_path / "audio")
    (tmp_path / "audio" / "broken.wav").write_bytes(b"no audio at all")
    return tmp_path / "audio"


def test_pack_keeps_every_readable_clip_and_names_the_rest(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no ffmpeg
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(TrainingError, match=r"no readable audio in .*other"):
        pack([other], tmp_path / "packed", RATE)
    assert not (tmp_path / "packed" / "clips.i16").exists()
    for name in ("a.mkv", "b.wma"):
        (other / name).write_bytes(b"x")
    failed = pack([folder, other], tmp_path / "packed", RATE)
    assert "2 files left out: 1 .mkv, 1 .wma; install ffmpeg" in capsys.readouterr().err
    clips = PackedClips.open(tmp_path / "packed")
    assert clips.names == ["0.wav", "2.wav", "4.wav", "inner/1.wav", "inner/3.wav"]
    np.testing.assert_allclose(np.diff(clips.starts) / RATE, [0.2, 1.0, 0.6, 0.7, 1.5], atol=2e-3)
    assert len(failed) == 1 and "broken.wav" in failed[0]
    original, _ = soundfile.read(folder / "2.wav")
    np.testing.assert_allclose(clips.samples[clips.starts[1] : clips.starts[2]] / 32767, original, atol=1 / 32767)
    pickled = pickle.dumps(clips)  # reopens the file
    assert len(pickled) < 1000 < clips.samples.nbytes and pickle.loads(pickled).names == clips.names
    np.testing.assert_array_equal(pickle.loads(pickled).samples, clips.samples)
    file = tmp_path / "packed" / "clips.i16"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(TrainingError, match=r"index says .* pack again"):
        PackedClips.open(tmp_path / "packed")


def test_long_files_become_clips_and_sources_are_folders(folder, tmp_path):
    pack([folder], tmp_path / "packed", RATE, max_seconds=0.5)
    clips = PackedClips.open(tmp_path / "packed")
    assert clips.names == [
        "0.wav", "2.wav#0", "2.wav#1", "4.wav", "inner/1.wav", "inner/3.wav#0", "inner/3.wav#1", "inner/3.wav#2",
    ]  # fmt: skip
    assert clips.sources == [""] * 4 + ["inner"] * 4
    assert np.diff(clips.starts).tolist()[:4] == [3200, 8000, 8000, 9600]  # 0.1 s joins the 0.5 s before it
    whole, _ = soundfile.read(folder / "2.wav")
    np.testing.assert_allclose(clips.samples[3200:19200] / 32767, whole, atol=1 / 32767)


def test_statistics_are_those_of_all_samples_of_any_number(tmp_path):
    samples = np.random.default_rng(0).integers(-9000, 10000, 5_000_000, np.int16)  # more than are read at once
    clips = PackedClips(samples, np.array([0, len(samples)]), ["a"], RATE, tmp_path)
    expected = samples.mean() / 32768, samples.std() / 32768
    assert clips.statistics() == pytest.approx(expected, rel=1e-6, abs=1e-9)
