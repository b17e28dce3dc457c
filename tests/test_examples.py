"""Every example runs and finds what it says it finds; the audio beside them is what its script makes."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parent.parent
AUDIO = ROOT / "examples" / "audio"
SPEC = importlib.util.spec_from_file_location("make_audio", ROOT / "examples" / "make_audio.py")
make_audio = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_audio)


def run(script):
    command = [sys.executable, ROOT / "examples" / script]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode("utf-8")


@pytest.mark.slow
def test_one_file():
    out = run("01_one_file.py")
    assert "(1000,) float32" in out
    assert "(2, 1000) at [[0.0, 5.0], [2.5, 6.0]] seconds" in out
    same, other = zip(*re.findall(r"two birds (-?\d\.\d\d)   bird and machine (-?\d\.\d\d)", out), strict=True)
    assert len(same) == 3
    assert float(same[0]) > float(other[0])  # invariant: two birds are more alike than a bird and a machine


@pytest.mark.slow
def test_folder():
    lines = run("02_folder.py").splitlines()
    assert lines[0] == f"{len(make_audio.TAKES)} files, embeddings ({len(make_audio.TAKES)}, 1000)"
    pairs = [(line.split()[0], line.split()[2]) for line in lines[1:]]
    assert [path for path, _ in pairs] == sorted(make_audio.TAKES)
    assert all(path != nearest for path, nearest in pairs)
    # Chance is 2 of 14.
    assert sum(path.split("/")[0] == nearest.split("/")[0] for path, nearest in pairs) > len(pairs) / 2


@pytest.mark.slow
def test_few_shot():
    found = re.findall(r"^(\w+) +(\d+\.\d\d) ± \d\.\d\d %$", run("03_few_shot.py"), re.MULTILINE)
    assert [name for name, _ in found] == ["invariant", "variant", "concat"]
    assert float(found[0][1]) > 50 and float(found[2][1]) > 50  # chance is 25


@pytest.mark.slow
def test_other_features():
    out = run("04_other_features.py")
    found = re.findall(r"^(\w+) +(\d+) numbers a file +(\d+\.\d\d) ± \d\.\d\d %$", out, re.MULTILINE)
    assert [(name, width) for name, width, _ in found[:2]] == [("mtslvr", "1000"), ("MFCC", "40")]
    assert all(float(mean) > 40 for *_, mean in found)  # chance is 20


@pytest.mark.slow
def test_label_recordings():
    assert run("05_label_recordings.py")


@pytest.mark.slow
@pytest.mark.extra("datasets")
def test_datasets():
    out = run("hugging_face_datasets.py")
    assert out.splitlines()[-1] == "(15, 1000) float32 ['alarm', 'bells', 'birds', 'machine', 'rain']"


@pytest.mark.slow
@pytest.mark.extra("ray")
def test_ray():
    assert run("ray_embed.py").splitlines()[-1] == "15 files, 1000 numbers each, 0 broken"


def test_audio_is_what_the_script_makes(tmp_path):
    make_audio.make(tmp_path)
    files = {path.relative_to(AUDIO).as_posix() for path in AUDIO.rglob("*") if path.is_file()}
    assert files == set(make_audio.TAKES)
    assert sum(path.stat().st_size for path in AUDIO.rglob("*.*")) < 1_000_000
    for name in files:
        (made, rate), (stored, stored_rate) = soundfile.read(tmp_path / name), soundfile.read(AUDIO / name)
        assert (made.shape, rate) == (stored.shape, stored_rate)
        # Encoders differ a little between versions; another draw of noise would be 1.4 away.
        assert np.sqrt(np.mean((made - stored) ** 2) / np.mean(stored**2)) < 0.5
