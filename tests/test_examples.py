import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mtslvr.models import hub

ROOT = Path(__file__).parent.parent
AUDIO = ROOT / "examples" / "audio"


def load_make_audio():
    spec = importlib.util.spec_from_file_location("make_audio", ROOT / "examples" / "make_audio.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_audio = load_make_audio()


def run(script):
    if not hub.bundled():
        pytest.skip("this checkout has no bundled weights")
    command = [sys.executable, ROOT / "examples" / script]
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "utf-8"}, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode("utf-8")


def test_one_file():
    out = run("01_one_file.py")
    assert "(1000,) float32" in out
    assert "(2, 1000) at [[0.0, 5.0], [2.5, 6.0]] seconds" in out
    same, other = zip(*re.findall(r"two birds (-?\d\.\d\d)   bird and machine (-?\d\.\d\d)", out), strict=True)
    assert len(same) == 3
    assert float(same[0]) > float(other[0])  # invariant: two birds are more alike than a bird and a machine


def test_folder():
    lines = run("02_folder.py").splitlines()
    assert lines[0] == f"{len(make_audio.TAKES)} files, embeddings ({len(make_audio.TAKES)}, 1000)"
    pairs = [(line.split()[0], line.split()[2]) for line in lines[1:]]
    assert [path for path, _ in pairs] == sorted(make_audio.TAKES)
    assert all(path != nearest for path, nearest in pairs)
    # Chance is 2 of 14.
    assert sum(path.split("/")[0] == nearest.split("/")[0] for path, nearest in pairs) > len(pairs) / 2


def test_few_shot():
    out = run("03_few_shot.py")
    found = re.findall(r"^(\w+) +(\d+\.\d\d) ± \d\.\d\d %$", out, re.MULTILINE)
    assert [name for name, _ in found] == ["invariant", "variant", "concat"]
    assert float(found[0][1]) > 50  # chance is 25
    assert float(found[2][1]) > 50


def test_other_features():
    out = run("04_other_features.py")
    found = re.findall(r"^(\w+) +(\d+) numbers a file +(\d+\.\d\d) ± \d\.\d\d %$", out, re.MULTILINE)
    assert [(name, width) for name, width, _ in found[:2]] == [("mtslvr", "1000"), ("MFCC", "40")]
    assert all(float(mean) > 40 for *_, mean in found)  # chance is 20


def test_datasets():
    pytest.importorskip("datasets")
    out = run("hugging_face_datasets.py")
    assert out.splitlines()[-1] == "(15, 1000) float32 ['alarm', 'bells', 'birds', 'machine', 'rain']"


def test_ray():
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'mtslvr[ray]'")
    assert run("ray_embed.py").splitlines()[-1] == "15 files, 1000 numbers each, 0 broken"


def test_every_take_is_there():
    files = {path.relative_to(AUDIO).as_posix() for path in AUDIO.rglob("*") if path.is_file()}
    assert files == set(make_audio.TAKES)
    assert sum(path.stat().st_size for path in AUDIO.rglob("*.*")) < 1_000_000


@pytest.mark.parametrize("name", make_audio.TAKES)
def test_audio_is_what_the_script_makes(name):
    made, rate = make_audio.synthesise(name)
    stored, stored_rate = soundfile.read(AUDIO / name)
    assert stored_rate == rate
    assert stored.shape == made.shape
    if name.endswith((".flac", ".wav")):
        np.testing.assert_allclose(stored, made, rtol=0, atol=2 / 32768)  # 16 bits
    else:  # another draw of noise would be 1.4 away
        assert np.sqrt(np.mean((stored - made) ** 2) / np.mean(made**2)) < 0.5


def test_make_audio_writes_what_is_stored(tmp_path):
    command = [sys.executable, ROOT / "examples" / "make_audio.py", tmp_path]
    subprocess.run(command, check=True)
    for name in make_audio.TAKES:
        made, stored = soundfile.read(tmp_path / name)[0], soundfile.read(AUDIO / name)[0]
        assert made.shape == stored.shape
        assert np.sqrt(np.mean((made - stored) ** 2) / np.mean(stored**2)) < 0.5
