"""As a program, `test_released.py [NAME ...]` pins what bundled checkpoints embed where that is not pinned.

What was released stays; other weights of a name that no release had are pinned again by that name.
"""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.main import main
from mtslvr.models import checkpoint, hub

PACKAGE = Path(mtslvr.__file__).parent
CHANGELOG = PACKAGE.parent / "CHANGELOG.md"
PINNED = Path(__file__).parent / "released"
PIN = "pin the new checkpoint with `python tests/models/hub/test_released.py`"


def probe():
    """A second of noise and a second of a rising tone, five seconds in all."""
    t = np.arange(80_000) / 16_000
    noise = np.random.default_rng(0).standard_normal(80_000)
    return (np.sin(2 * np.pi * (200 + 300 * t) * t) * (t % 2 < 1) + 0.1 * noise).astype(np.float32)


@pytest.mark.parametrize("name", sorted(hub.bundled()))
def test_embeddings_of_a_released_checkpoint_stay_and_its_folder_is_what_a_repository_holds(name):
    path, folder = PINNED / f"{name}.npz", hub.bundled()[name]
    assert path.is_file(), f"{path} is missing: {PIN}"
    with np.load(path, allow_pickle=False) as pinned:
        expected, weights = pinned["embeddings"], str(pinned["sha256"])
    found = checkpoint.sha256(folder / checkpoint.WEIGHTS_NAME)
    assert found == weights, f"{name}: other weights than those pinned; give them a new name, or before a release {PIN}"
    embedded = mtslvr.embed(probe(), 16_000, encoder=mtslvr.load(name, device="cpu"))
    assert np.abs(embedded - expected).max() <= 1e-3 * np.abs(expected).max()
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    result = CliRunner().invoke(main, ["push", str(folder), f"org/{name}"])
    assert result.exit_code == 0, result.output


@pytest.mark.skipif(not CHANGELOG.is_file(), reason="installed without its repository")
def test_every_release_says_what_became_of_the_embeddings():
    _, *releases = re.split(r"(?m)^## \[", CHANGELOG.read_text(encoding="utf-8"))
    said = {release[:5]: re.findall(r"(?ms)^Embeddings: .*?(?=\n\n|\Z)", release) for release in releases}
    assert said and all(len(lines) == 1 for lines in said.values()), said
    for name in hub.bundled():
        assert any(f"`{name}`" in lines[0] for lines in said.values()), name


def test_the_package_has_no_call_that_runs_data():
    runs = r"(?<![\w.])(?:eval|exec|compile|__import__)\(|os\.system\(|pickle\.loads?\(|trust_remote_code=|shell="
    for path in PACKAGE.rglob("*.py"):
        text = ast.unparse(ast.parse(path.read_text(encoding="utf-8")))  # a call is on one line
        assert re.findall(runs, text) == [], path
        for call, safe in (("torch.load(", "weights_only=True"), ("np.load(", "allow_pickle=False")):
            assert all(safe in line for line in text.splitlines() if call in line), path


if __name__ == "__main__":
    for name, folder in hub.bundled().items():
        path = PINNED / f"{name}.npz"
        if not path.exists() or name in sys.argv[1:]:
            embeddings = mtslvr.embed(probe(), 16_000, encoder=mtslvr.load(name, device="cpu"))
            np.savez(path, embeddings=embeddings, sha256=np.array(checkpoint.sha256(folder / checkpoint.WEIGHTS_NAME)))
            print(f"wrote {path}")
