import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from sklearn.covariance import ledoit_wolf_shrinkage

from mtslvr.analysis import InvarianceConfig, invariance, read_invariance
from mtslvr.analysis.distances import ledoit_wolf, mahalanobis, mean_distance
from mtslvr.analysis.invariance import AVERAGE
from mtslvr.audio.load import find_audio, load_audio
from mtslvr.cli.main import main
from mtslvr.config import Normalization
from mtslvr.errors import AudioError, ConfigError
from mtslvr.nn.encoder import Encoder
from mtslvr.training.augment import TRANSFORMATIONS

AUDIO = Path(__file__).parents[2] / "examples" / "audio"


def test_mahalanobis_equals_the_formula():
    rng = np.random.default_rng(0)
    originals = rng.standard_normal((30, 4)) @ rng.standard_normal((4, 4)) + 5
    copies = originals + 0.3 * rng.standard_normal((2, 30, 4))
    covariance = np.cov(originals.T, bias=True)
    inverse = np.linalg.inv(0.8 * covariance + 0.2 * np.trace(covariance) / 4 * np.eye(4))
    distances = mahalanobis(originals, copies, 0.2)
    moved = copies - originals
    np.testing.assert_allclose(distances, np.sqrt(np.einsum("kni,ij,knj->kn", moved, inverse, moved)))
    with pytest.raises(ConfigError, match="all embeddings are the same"):
        mahalanobis(np.ones((12, 3)), np.ones((1, 12, 3)), 0.1)


def test_the_mean_distance_is_that_between_different_clips():
    rows = np.random.default_rng(0).standard_normal((6, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    assert mean_distance(rows @ rows.T) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("shape", [(400, 5), (10, 50)])
def test_shrinkage_is_scikit_learns(shape):
    rng = np.random.default_rng(2)
    originals = rng.standard_normal(shape) @ rng.standard_normal((shape[1], shape[1]))
    assert ledoit_wolf(originals) == pytest.approx(ledoit_wolf_shrinkage(originals))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for i in range(32):
        tone = np.sin(2 * np.pi * 200 * (i + 1) * np.arange(3500) / 16000)
        soundfile.write(root / f"{i}.wav", 0.2 * tone + 0.05 * rng.standard_normal(3500), 16000)
    return root


@pytest.fixture(scope="module")
def small(unfolded_encoder):
    """Windows of a quarter of a second."""
    encoder = Encoder(dataclasses.replace(unfolded_encoder.config, window_seconds=0.25))
    encoder.load_state_dict(unfolded_encoder.state_dict())
    return encoder


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def outcome(clips, small, tmp_path_factory):
    """What the command prints and writes, of 31 of the 32 clips."""
    root = tmp_path_factory.mktemp("measured")
    model = small.save(root / "small")
    outputs = [part for name in ("x.json", "x.md") for part in ("-o", root / name)]
    return run("invariance", clips, "--model", model, "--clips", 31, "--batch-size", 10, *outputs), root


@pytest.fixture(scope="module")
def measured(outcome):
    return read_invariance(outcome[1] / "x.json")


@pytest.mark.slow
def test_every_transformation_and_branch_is_measured(measured):
    found = [(row.branch, row.transformation) for row in measured.rows]
    assert found == [(b, t) for b in ("invariant", "variant") for t in (*TRANSFORMATIONS, AVERAGE)]
    for row in measured.rows:
        assert row.mahalanobis > 0 and 0 < row.ci95 < row.mahalanobis
        assert -1 <= row.cosine < 1 and row.relative > 0
    for branch in ("invariant", "variant"):
        *each, average = [row.mahalanobis for row in measured.rows if row.branch == branch]
        assert average == pytest.approx(np.mean(each))
    assert (measured.settings["clips"], measured.settings["folder"][:5]) == (31, "clips")
    verdict, trust = measured.conclusions()
    assert "the invariant branch is" in verdict and trust.startswith("Not to be trusted: 31 clips")
    enough = dataclasses.replace(measured, settings={**measured.settings, "clips": 100})
    assert len(enough.conclusions()) == 1


@pytest.mark.slow
def test_the_command_and_its_files(outcome, measured, clips, tmp_path):
    result, root = outcome
    assert result.exit_code == 0, result.output
    assert "time_masking" in result.stdout and "Not to be trusted: 31 clips" in result.stdout
    assert (root / "x.md").read_text().startswith("| transformation |")
    assert run("report", root / "x.json", "-o", root / "x.html").exit_code == 0
    assert measured.to_csv().splitlines()[0].startswith("model,branch,transformation,mahalanobis")
    path = tmp_path / "x.json"
    path.write_text(measured.to_json())
    assert read_invariance(path) == measured
    path.write_text(measured.to_json().replace('"format": 2', '"format": 1'))
    with pytest.raises(ConfigError, match="format 1; expected 'invariance', format 2"):
        read_invariance(path)
    wrong = run("invariance", clips, "--clips", 3)
    assert wrong.exit_code == 2 and "clips=3: must be an integer from 30" in wrong.output


@pytest.mark.slow
def test_the_bundled_weights_have_learned_to_be_invariant(tmp_path):
    # By cosine: the covariance of a few synthetic clips is mostly shrinkage, and Mahalanobis distances with it depend
    # on the scale of the heads. On a hundred real clips both measures agree.
    for path in find_audio(AUDIO):
        wave = load_audio(path.path, 16000)
        for i, half in enumerate(np.array_split(wave, 2)):
            soundfile.write(tmp_path / f"{path.path.stem}{i}.wav", half, 16000)
    measured = invariance(tmp_path)
    cells = {(row.branch, row.transformation): row for row in measured.rows}
    # These hardly move either embedding, and maxima over time follow them as the variant path's means do.
    edits = {"fade", "time_masking", "time_shift"}
    for transformation in (*TRANSFORMATIONS, AVERAGE):
        one, other = cells["invariant", transformation], cells["variant", transformation]
        assert one.cosine > (0.9 if transformation in edits else other.cosine + 0.05), transformation
    assert edits < set(TRANSFORMATIONS)


@pytest.mark.slow
def test_statistics_of_the_training_data_are_applied_once(clips, unfolded_encoder):
    settings = {"window_seconds": 0.25, "normalization": Normalization.GLOBAL, "global_mean": 0.01, "global_std": 0.2}
    trained = Encoder(dataclasses.replace(unfolded_encoder.config, **settings))  # in training mode, which stays
    seen = []
    trained.frontend.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    invariance(clips, {"global": trained}, InvarianceConfig(clips=32, batch_size=32))
    clip, _ = soundfile.read(sorted(clips.iterdir())[0], dtype="float32")
    expected = (np.resize(clip, seen[0].shape[1]) - 0.01) / 0.2
    assert min(np.abs(row - expected).max() for row in seen[0].numpy()) <= 1e-5
    assert trained.training and trained.trunk.stem.norms[0].num_batches_tracked == 0


def test_bad_input_is_named(encoder, tmp_path):
    for settings, said in (
        ({"clips": 3}, "clips=3: must be an integer from 30"),
        ({"draws": 0}, "draws=0"),
        ({"shrinkage": 0}, "shrinkage=0: must be above 0"),
        ({"layer": "stem"}, "layer='stem': unknown"),
    ):
        with pytest.raises(ConfigError, match=said):
            InvarianceConfig(**settings)
    with pytest.raises(ConfigError, match="0 audio files; at least 30 are needed"):
        invariance(tmp_path, {"small": encoder})
    with pytest.raises(AudioError, match="no such file or folder"):
        invariance(tmp_path / "nowhere", {"small": encoder})
    for i in range(30):
        soundfile.write(tmp_path / f"{i}.wav", np.zeros(1600), 16000)
    with pytest.raises(AudioError, match=r"0\.wav: silent"):
        invariance(tmp_path, {"small": encoder})
