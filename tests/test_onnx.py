"""Exported models in ONNX Runtime: torch's embeddings, for any variant, batch and length."""

import dataclasses
import sys

import fill_rule
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import mtslvr
from mtslvr.cli.main import main
from mtslvr.config import AdapterKind, EncoderConfig, FrontendConfig, Layer, Normalization, Phase, Rows
from mtslvr.errors import ConfigError
from mtslvr.models import checkpoint
from mtslvr.nn.encoder import Encoder
from mtslvr.onnx import TOLERANCE, build, deviation, export
from mtslvr.onnx import check as check_module
from mtslvr.onnx import model as model_module
from mtslvr.onnx.frontend import _angle, fourier_basis
from mtslvr.onnx.nodes import Nodes

REASON = "needs the extra: pip install 'mtslvr[onnx]'"
onnx = pytest.importorskip("onnx", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
pytestmark = pytest.mark.extra("onnx")

# Each kind of adapter, one and two tasks and heads, one and three channels; all with the published phase.
VARIANTS = ["none_c3", "split_c3_s2", "bn_c3_s1t2", "series_c3_s2", "parallel_c1_s2", "parallel_c3_s1t1"]


def session(model):
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def run(model, given):
    """Both embeddings of an array or tensor."""
    return model.run(["invariant", "variant"], {model.get_inputs()[0].name: np.asarray(given)})


def relative(found, expected):
    """Largest deviation of each row, in parts of the row's largest value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return (np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)).max()


def assert_equal(found, expected, tolerance=1e-5):
    assert relative(found[0], expected.invariant) <= tolerance
    assert relative(found[1], expected.variant) <= tolerance


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_encoder(randomize, **changes):
    frontend = {"epsilon": 1e-3, "phase": Phase.STABLE} | changes.pop("frontend", {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = EncoderConfig(FrontendConfig(**frontend), **{"window_seconds": 1.0, **changes})
        return randomize(Encoder(config)).fold()


@pytest.fixture(scope="module")
def model(encoder):
    return build(encoder)


@pytest.fixture(scope="module")
def loaded(model):
    return session(model)


# The numbers


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_every_kind_of_encoder(official_encoder, tmp_path, variant):
    published = official_encoder(variant)
    spectrogram = published.frontend(noise(2, 9000))
    heads = session(build(published.fold(), input="spectrogram"))
    assert_equal(run(heads, spectrogram), published.encode_spectrogram(spectrogram))
    short = Encoder(dataclasses.replace(published.config, window_seconds=1.0))
    short.load_state_dict(published.state_dict())
    worst = export(short, tmp_path / "x.onnx", layer="pooled")  # of the whole chain, as `deviation` tells
    assert 0 < worst <= 1e-5
    pooled = session((tmp_path / "x.onnx").read_bytes())
    assert [output.shape[1] for output in pooled.get_outputs()] == [512, 512]


@pytest.mark.parametrize("samples", [600, 8000, 16000, 25111])
@torch.inference_mode()
def test_any_batch_and_length(encoder, loaded, samples):
    x = noise(5, samples)
    expected, found = encoder(x), run(loaded, x)
    assert_equal(found, expected)
    alone = [run(loaded, row[None]) for row in x]
    for task in (0, 1):
        assert relative(np.concatenate([rows[task] for rows in alone]), found[task]) <= 1e-5


CONFIGS = {
    "odd sizes": {"frontend": {"sample_rate": 8000, "f_max": 3500, "n_fft": 400, "hop_length": 160, "n_mels": 97}},
    "few bands, one channel": {"frontend": {"n_mels": 8, "channels": 1}, "adapter": AdapterKind.SERIES},
    "not normalised": {"normalization": Normalization.NONE},
    "by the training data": {"normalization": Normalization.GLOBAL, "global_mean": 0.1, "global_std": 0.3},
    "rows": {"invariant_rows": Rows((2, 4), (1, 3)), "variant_rows": Rows((0, 0), (0, 4))},
    "first and last rows": {"invariant_rows": Rows((0, 1), (0, 1)), "variant_rows": Rows((7, 8), (3, 4))},
    "rows of one path": {"frontend": {"n_mels": 97}, "variant_rows": Rows((6, 7)), "spectral_statistics": True},
    "statistics": {"normalization": Normalization.FILE, "spectral_statistics": True, "adapter": AdapterKind.BN},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("window", [None, 0.91])
@torch.inference_mode()
def test_other_configurations(randomize, name, window):
    encoder = random_encoder(randomize, **CONFIGS[name])
    x = 0.2 * noise(2, round(0.91 * encoder.sample_rate)) + 0.05
    for layer in ("head", "pooled"):
        assert_equal(run(session(build(encoder, layer=layer, window_seconds=window)), x), encoder(x, layer))


@torch.inference_mode()
def test_a_single_frame(randomize):
    encoder = random_encoder(randomize, frontend={"hop_length": 1024}, spectral_statistics=True)
    x = noise(2, 600)
    assert encoder.frontend(x).shape[3] == 1
    assert_equal(run(session(build(encoder)), x), encoder(x))


@torch.inference_mode()
def test_silence_and_steps(encoder, loaded, official_encoder):
    """Digital silence, on zero and off it, whose logarithms are steep; with the published epsilon above all."""
    x = torch.zeros(4, 16000)
    x[1] = 0.3
    x[2, 8000:] = 0.1 * noise(8000)
    x[3, 5000] = 1
    assert_equal(run(loaded, x), encoder(x))
    published = official_encoder("parallel_c1_s2").fold()
    assert_equal(run(session(build(published)), x), published(x))


@torch.inference_mode()
def test_loudness_and_offset_do_not_matter(encoder, loaded):
    x = noise(1, 16000)
    expected = encoder(x)
    for changed in (1e-6 * x, 1e4 * x + 3e3):
        assert_equal(run(loaded, changed), expected, 1e-4)


def test_the_basis_is_that_of_the_fft():
    for n_fft in (16, 400, 1024):
        half = n_fft // 2 + 1
        x = fill_rule.rng("basis").standard_normal(n_fft)
        expected = np.fft.rfft(x)
        found = x @ fourier_basis(n_fft).astype(np.float64)
        np.testing.assert_allclose(found[:half] + 1j * found[half:], expected, atol=1e-5)
        assert not fourier_basis(n_fft)[:, [half, -1]].any()  # bins 0 and n_fft // 2 are real


def test_the_angle_is_that_of_atan2():
    values = np.array([-3, -1, -1e-20, 0, 1e-20, 1, 2, 1e20], np.float32)
    y, x = (grid.ravel() for grid in np.meshgrid(values, values))
    nodes = Nodes()
    nodes.name(_angle(nodes, "y", "x"), "angle")
    kind = onnx.TensorProto.FLOAT
    names = [onnx.helper.make_tensor_value_info(name, kind, ["n"]) for name in ("y", "x", "angle")]
    graph = onnx.helper.make_graph(nodes.nodes, "angle", names[:2], names[2:], nodes.constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    [found] = session(model).run(None, {"y": y, "x": x})
    np.testing.assert_allclose(found, np.arctan2(y, x), rtol=1e-6, atol=1e-30)


# What the file is


def test_names_shapes_and_metadata(encoder, model, loaded):
    [given] = loaded.get_inputs()
    assert (given.name, given.type, given.shape) == ("waveform", "tensor(float)", ["batch", "samples"])
    assert [(o.name, o.shape) for o in loaded.get_outputs()] == [
        ("invariant", ["batch", 500]),
        ("variant", ["batch", 500]),
    ]
    facts = loaded.get_modelmeta().custom_metadata_map
    assert facts["sample_rate"] == "16000" and facts["window_seconds"] == "1.0" and facts["layer"] == "head"
    assert facts["mtslvr"] == mtslvr.__version__ and facts["normalization"] == "window"
    assert facts["features"] == "invariant, variant" and '"epsilon": 0.001' in facts["encoder"]
    assert {node.name for node in model.graph.node} >= {"spectrogram", "invariant", "variant"}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


@torch.inference_mode()
def test_one_length_is_the_only_one(encoder):
    fixed = session(build(encoder, window_seconds=0.5))
    assert fixed.get_inputs()[0].shape == ["batch", 8000]
    assert_equal(run(fixed, noise(3, 8000)), encoder(noise(3, 8000)))
    with pytest.raises(Exception, match="8000"):
        run(fixed, noise(1, 8001))
    assert session(build(encoder, input="spectrogram", window_seconds=0.5)).get_inputs()[0].shape[3] == 16


@torch.inference_mode()
def test_unfolded_rounded_and_training_encoders(unfolded_encoder, encoder, tmp_path):
    x = noise(2, 9000)
    assert export(unfolded_encoder, tmp_path / "x.onnx") <= 1e-5
    assert not unfolded_encoder.folded
    assert_equal(run(session((tmp_path / "x.onnx").read_bytes()), x), encoder(x))
    half = encoder.fold()
    half.trunk.bfloat16()
    half.branches.bfloat16()
    assert export(half, tmp_path / "half.onnx") <= 1e-5
    assert half.dtype is torch.bfloat16
    assert_equal(run(session((tmp_path / "half.onnx").read_bytes()), x), half(x), 5e-2)


# The check


def test_the_check_sees_what_differs(encoder, model):
    assert deviation(model, encoder, Layer.HEAD, None) <= 1e-5
    wrong = encoder.fold()
    with torch.no_grad():
        wrong.heads[1].bias[7] += 1
    assert deviation(model, wrong, Layer.HEAD, None) > TOLERANCE
    assert check_module._relative(torch.full((1, 2), torch.nan), torch.ones(1, 2)) == float("inf")
    assert check_module._relative(torch.ones(1, 3), torch.ones(1, 2)) == float("inf")


def test_what_differs_is_not_written(encoder, tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"what was there")
    monkeypatch.setattr(model_module, "deviation", lambda *_: 3e-3)
    with pytest.raises(ConfigError, match=r"x\.onnx: not written, since .* differ from torch's by 3\.0e-03"):
        export(encoder, path, overwrite=True)
    assert path.read_bytes() == b"what was there" and list(tmp_path.iterdir()) == [path]


def test_without_onnxruntime_it_is_not_checked(encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export(encoder, tmp_path / "x.onnx", window_seconds=0.5) is None
    assert (tmp_path / "x.onnx").stat().st_size > 1e6


# What cannot be


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": "mp3"}, r"input='mp3': unknown; use one of 'waveform', 'spectrogram'"),
        ({"layer": "neck"}, r"layer='neck': unknown"),
        ({"window_seconds": 0.03}, r"window_seconds=0\.03: must be from 0\.0320\d* to 600"),
        ({"window_seconds": float("nan")}, r"window_seconds=nan: must be"),
    ],
)
def test_what_is_unknown_or_out_of_range(encoder, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        export(encoder, tmp_path / "x.onnx", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(encoder, tmp_path):
    (tmp_path / "x.onnx").mkdir()
    with pytest.raises(ConfigError, match=r"x\.onnx: exists; choose another name, or replace it with --overwrite"):
        export(encoder, tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match=r"x\.onnx: cannot be written"):
        export(encoder, tmp_path / "x.onnx", window_seconds=0.5, overwrite=True)
    with pytest.raises(ConfigError, match=r"folder '.*nowhere' does not exist; make it with mkdir -p"):
        export(encoder, tmp_path / "nowhere" / "x.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


def test_another_suffix_is_refused_before_anything_is_loaded(encoder, tmp_path):
    with pytest.raises(ConfigError, match=r"x\.pt: ONNX is what is written; end the name in \.onnx"):
        export(encoder, tmp_path / "x.pt")
    result = command("no-such-model", tmp_path / "x.pt")
    assert result.exit_code == 2 and "end the name in .onnx" in result.output


def test_without_onnx(encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"onnx cannot be imported .*pip install 'mtslvr\[onnx\]'"):
        export(encoder, tmp_path / "x.onnx")


# The command line


def command(*arguments):
    return CliRunner().invoke(main, ["export", *(str(a) for a in arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, unfolded_encoder):
    card = "---\nlicense: cc-by-4.0\n---\n# A model\n"
    return checkpoint.save(unfolded_encoder, tmp_path_factory.mktemp("weights"), dtype=torch.float32, card=card)


@torch.inference_mode()
def test_the_command(folder, encoder, tmp_path):
    out = tmp_path / "out.onnx"
    result = command(folder, out)
    assert result.exit_code == 0, result.output
    assert "MB; checked: differs from torch by" in result.output
    written = session(out.read_bytes())
    assert_equal(run(written, noise(2, 12000)), encoder(noise(2, 12000)))
    facts = written.get_modelmeta().custom_metadata_map
    assert (facts["model"], facts["licence"]) == (folder.name, "cc-by-4.0")
    assert facts["model_sha256"] == checkpoint.sha256(folder / "model.safetensors")
    again = command(folder, out)
    assert again.exit_code == 2 and "exists; choose another name" in again.output
    options = "--input", "spectrogram", "--layer", "pooled", "--window", 0.5, "--overwrite"
    assert command(folder, out, *options).exit_code == 0
    replaced = session(out.read_bytes())
    assert replaced.get_inputs()[0].shape == ["batch", 3, 128, 16]
    assert replaced.get_outputs()[0].shape == ["batch", 512]


def test_the_command_without_the_packages(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = command(folder, tmp_path / "x.onnx", "--window", 0.5)
    assert result.exit_code == 0 and "not checked: onnxruntime is not installed" in result.output
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = command(folder, tmp_path / "y.onnx")
    assert result.exit_code == 2 and "pip install 'mtslvr[onnx]'" in result.output
    assert command("no-such-model", tmp_path / "y.onnx").exit_code == 3
