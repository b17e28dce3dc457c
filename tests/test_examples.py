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


def found_by(script, pattern):
    command = [sys.executable, ROOT / "examples" / script]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    found = re.findall(pattern, result.stdout.decode("utf-8"), re.MULTILINE)
    assert result.returncode == 0 and found, (result.stdout, result.stderr)
    return found


@pytest.mark.slow
def test_one_file_and_a_folder():
    found = found_by("01_one_file.py", r"two birds (-?\d\.\d\d)   bird and machine (-?\d\.\d\d)")
    assert len(found) == 3 and float(found[0][0]) > float(found[0][1])  # invariant: two birds are more alike
    pairs = found_by("02_folder.py", r"^(\S+) +nearest (\S+)")
    assert [path for path, _ in pairs] == sorted(make_audio.TAKES)
    assert all(path != nearest for path, nearest in pairs)
    # Chance is 2 of 14.
    assert sum(path.split("/")[0] == nearest.split("/")[0] for path, nearest in pairs) > len(pairs) / 2


ACCURACY, DATASETS = r"^(\w+) .*?(\d+\.\d\d) ± \d+\.\d\d %$", r"^\(15, 1000\) float32 \['alarm', 'bells', 'birds'"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "pattern", "names", "least"),
    [
        ("03_few_shot.py", ACCURACY, ["invariant", "variant", "concat"], 25),  # chance
        ("04_other_features.py", ACCURACY, ["mtslvr", "MFCC"], 40),
        ("05_label_recordings.py", ".", [], 0),
        pytest.param("hugging_face_datasets.py", DATASETS, [], 0, marks=pytest.mark.extra("datasets")),
        pytest.param("ray_embed.py", "^15 files, 1000 numbers each, 0 broken$", [], 0, marks=pytest.mark.extra("ray")),
    ],
)
def test_others_run(script, pattern, names, least):
    found = found_by(script, pattern)
    if names:
        assert [name for name, _ in found][: len(names)] == names
        assert all(float(mean) > least for _, mean in found)


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
