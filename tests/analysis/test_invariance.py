import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from sklearn.covariance import ledoit_wolf_shrinkage

from mtslvr.analysis import InvarianceConfig, invariance, read_invariance
from mtslvr.analysis.invariance import AVERAGE, LINES, ledoit_wolf, mahalanobis
from mtslvr.audio.find import find_audio
from mtslvr.audio.load import load_audio
from mtslvr.cli.main import main
from mtslvr.config import Normalization
from mtslvr.errors import AudioError, ConfigError
from mtslvr.nn.encoder import Encoder


def test_mahalanobis_equals_the_formula_and_shrinkage_is_scikit_learns():
    rng = np.random.default_rng(0)
    originals = rng.standard_normal((30, 4)) @ rng.standard_normal((4, 4)) + 5
    moved = 0.3 * rng.standard_normal((2, 30, 4))
    covariance = np.cov(originals.T, bias=True)
    inverse = np.linalg.inv(0.8 * covariance + 0.2 * np.trace(covariance) / 4 * np.eye(4))
    distances = mahalanobis(originals, originals + moved, 0.2)
    np.testing.assert_allclose(distances, np.sqrt(np.einsum("kni,ij,knj->kn", moved, inverse, moved)))
    with pytest.raises(ConfigError, match="all embeddings are the same"):
        mahalanobis(np.ones((12, 3)), np.ones((1, 12, 3)), 0.1)
    few = rng.standard_normal((10, 50)) @ rng.standard_normal((50, 50))
    alike = np.random.default_rng(2).standard_normal((400, 5))  # of no direction: shrinkage is full
    for rows in (originals, few, alike):
        assert ledoit_wolf(rows) == pytest.approx(ledoit_wolf_shrinkage(rows))


@pytest.fixture(scope="module")
def clips(tmp_path_factory, write):
    root = tmp_path_factory.mktemp("clips")
    for i in range(32):
        write(root / f"{i}.wav", 3500 / 16000, i, hertz=200 * (i + 1))
    return root


@pytest.mark.slow
def test_the_command_measures_every_transformation_and_branch(clips, unfolded_encoder, tmp_path):
    small = Encoder(dataclasses.replace(unfolded_encoder.config, window_seconds=0.25))
    small.load_state_dict(unfolded_encoder.state_dict())
    outputs = [part for name in ("x.json", "x.md", "x.csv") for part in ("-o", tmp_path / name)]
    model = small.save(tmp_path / "small")
    arguments = ["invariance", clips, "--model", model, "--clips", 31, "--batch-size", 10, *outputs]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "time_masking" in result.stdout and "Not to be trusted: 31 clips" in result.stdout
    assert (tmp_path / "x.md").read_text().startswith("| transformation |")
    assert (tmp_path / "x.csv").read_text().startswith("model,branch,transformation,mahalanobis")
    measured = read_invariance(tmp_path / "x.json")
    assert [row.transformation for row in measured.rows] == [*LINES, *LINES]
    assert [row.branch for row in measured.rows] == ["invariant"] * len(LINES) + ["variant"] * len(LINES)
    for row in measured.rows:
        assert 0 < row.ci95 < row.mahalanobis and -1 <= row.cosine < 1 and row.relative > 0
    *each, average = [row.mahalanobis for row in measured.rows if row.branch == "variant"]
    assert average == pytest.approx(np.mean(each))
    enough = dataclasses.replace(measured, settings={**measured.settings, "clips": 100})
    assert len(enough.conclusions()) == 1
    (tmp_path / "x.json").write_text(measured.to_json().replace('"format": 2', '"format": 1'))
    with pytest.raises(ConfigError, match="format 1; expected 'invariance', format 2"):
        read_invariance(tmp_path / "x.json")


@pytest.mark.slow
def test_the_bundled_weights_have_learned_to_be_invariant(tmp_path):
    # By cosine: Mahalanobis distances with the covariance of a few synthetic clips depend on the scale of the heads.
    for path in find_audio(Path(__file__).parents[2] / "examples" / "audio"):
        for i, half in enumerate(np.array_split(load_audio(path.path, 16000), 2)):
            soundfile.write(tmp_path / f"{path.path.stem}{i}.wav", half, 16000)
    cells = {(row.branch, row.transformation): row for row in invariance(tmp_path).rows}
    edits = {"fade", "time_masking", "time_shift"}  # these hardly move either embedding
    for transformation in LINES:
        one, other = cells["invariant", transformation], cells["variant", transformation]
        assert one.cosine > (0.9 if transformation in edits else other.cosine + 0.05), transformation
    assert AVERAGE not in edits < set(LINES)


@pytest.mark.slow
def test_statistics_of_the_training_data_are_applied_once(clips, unfolded_encoder):
    settings = {"window_seconds": 0.25, "normalization": Normalization.GLOBAL, "global_mean": 0.01, "global_std": 0.2}
    trained, seen = Encoder(dataclasses.replace(unfolded_encoder.config, **settings)), []  # in training mode
    trained.frontend.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    invariance(clips, {"global": trained}, InvarianceConfig(clips=32, batch_size=32))
    clip, _ = soundfile.read(sorted(clips.iterdir())[0], dtype="float32")
    expected = (np.resize(clip, seen[0].shape[1]) - 0.01) / 0.2
    assert min(np.abs(row - expected).max() for row in seen[0].numpy()) <= 1e-5
    assert trained.training and trained.trunk.stem.norms[0].num_batches_tracked == 0


def test_bad_input_is_named(encoder, tmp_path):
    for folder, files in (("silent", 30), ("empty", 0)):
        (tmp_path / folder).mkdir()
        for i in range(files):
            soundfile.write(tmp_path / folder / f"{i}.wav", np.zeros(1600), 16000)
    for folder, settings, error, said in (
        ("silent", {"clips": 3}, ConfigError, "clips=3: must be an integer from 30"),
        ("silent", {"shrinkage": 0}, ConfigError, "shrinkage=0: must be above 0"),
        ("silent", {"layer": "stem"}, ConfigError, "layer='stem': unknown"),
        ("empty", {}, ConfigError, "0 audio files; at least 30 are needed"),
        ("nowhere", {}, AudioError, "no such file or folder"),
        ("silent", {}, AudioError, r"0\.wav: silent"),
    ):
        with pytest.raises(error, match=said):
            invariance(tmp_path / folder, {"small": encoder}, InvarianceConfig(**settings))
