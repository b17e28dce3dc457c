"""Packed clips to parts of a size and back, for a machine that takes little at a time."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mtslvr.training.data import PackedClips

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "recode.py"


@pytest.mark.slow
def test_clips_come_back_cut_and_with_their_names_as_many_as_fit(tmp_path):
    lengths = [16000 * (1 + i % 4) for i in range(120)]
    tones = [np.sin(2 * np.pi * (200 + 20 * i) * np.arange(n) / 16000) for i, n in enumerate(lengths)]
    (tmp_path / "packed").mkdir()
    (8000 * np.concatenate(tones)).astype(np.int16).tofile(tmp_path / "packed" / "clips.i16")
    index = {"sample_rate": 16000, "names": [f"{i}.wav" for i in range(120)], "lengths": lengths}
    (tmp_path / "packed" / "clips.json").write_text(json.dumps(index))
    how = ["--seconds", "2", "--kbps", "24", "--part-mib", "0.3"]
    subprocess.run([sys.executable, SCRIPT, "make", tmp_path / "packed", tmp_path / "parts", *how], check=True)
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) == 2 and all(part.stat().st_size <= 0.3 * 2**20 for part in parts)
    for part in parts:
        with tarfile.open(part) as tar:
            tar.extractall(tmp_path / "unpacked")
    subprocess.run([sys.executable, SCRIPT, "join", tmp_path / "unpacked", tmp_path / "joined"], check=True)
    clips = PackedClips.open(tmp_path / "joined")
    assert 40 < len(clips) < 120 and len(set(clips.names)) == len(clips)
    for name, start, end in zip(clips.names, clips.starts, clips.starts[1:], strict=False):
        expected = tones[int(name.removesuffix(".wav"))][:32000]
        assert np.corrcoef(clips.samples[start:end], expected)[0, 1] > 0.95
