"""Exported models in ONNX Runtime: torch's embeddings for every kind of encoder, in a batch of any size."""

import sys

import pytest
import torch
from click.testing import CliRunner
from narrow import cut_widths

import mtslvr
from mtslvr.cli.main import main
from mtslvr.config import AdapterKind, EncoderConfig, FrontendConfig, Normalization, Phase, Rows
from mtslvr.errors import ConfigError
from mtslvr.models import checkpoint
from mtslvr.nn.encoder import Encoder
from mtslvr.onnx import export

REASON = "needs the extra: pip install 'mtslvr[onnx]'"
pytest.importorskip("onnxscript", reason=REASON)
onnx = pytest.importorskip("onnx", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
pytestmark = pytest.mark.extra("onnx")

STABLE = {"epsilon": 1e-3, "phase": Phase.STABLE}
ODD = {"sample_rate": 8000, "f_max": 3500, "n_fft": 400, "hop_length": 160, "n_mels": 97}
ROWS = {"invariant_rows": Rows((2, 4), (1, 3), means=True), "variant_rows": Rows((0, 0), (0, 4))}
CONFIGS = {
    "published": EncoderConfig(window_seconds=0.5),
    "ours": EncoderConfig(FrontendConfig(**STABLE), spectral_statistics=True, window_seconds=0.5, **ROWS),
    "odd": EncoderConfig(
        FrontendConfig(**ODD, **STABLE),
        adapter=AdapterKind.SERIES,
        normalization=Normalization.GLOBAL,
        global_mean=0.1,
        global_std=0.3,
        variant_rows=Rows((6, 7)),
        window_seconds=0.5,
    ),
    "one output": EncoderConfig(
        FrontendConfig(channels=1), AdapterKind.NONE, 1, 1, normalization=Normalization.NONE, window_seconds=0.5
    ),
    "one path": EncoderConfig(FrontendConfig(n_mels=16, **STABLE), AdapterKind.SPLIT, tasks=1, window_seconds=0.5),
    "one head": EncoderConfig(FrontendConfig(n_mels=16, **STABLE), AdapterKind.BN, heads=1, window_seconds=0.5),
}


@pytest.fixture(scope="module")
def make(randomize):
    """Name -> encoder of random weights and cut widths."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        cut_widths(patch.setattr)
        torch.manual_seed(0)
        made = {name: randomize(Encoder(config)) for name, config in CONFIGS.items()}
        yield made.get


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def difference(model, given, expected):
    """The largest, in parts of the largest number of its row."""
    found = model.run(["invariant", "variant"], {model.get_inputs()[0].name: given.numpy()})
    parts = []
    for ours, theirs in zip(map(torch.from_numpy, found), (expected.invariant, expected.variant), strict=True):
        assert ours.shape == theirs.shape
        parts.append((ours - theirs).abs().amax(1) / theirs.abs().amax(1))
    return float(torch.cat(parts).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_every_kind_of_encoder(make, tmp_path, name):
    encoder = make(name)
    worst = export(encoder, tmp_path / "a.onnx", layer="pooled" if name == "odd" else "head")
    assert 0 < worst <= 1e-4
    x = 0.2 * torch.randn(5, encoder.config.window_length, generator=torch.Generator().manual_seed(0)) + 0.05
    expected = encoder(x, "pooled" if name == "odd" else "head")
    model = session(tmp_path / "a.onnx")
    tolerance = 2e-2 if name == "published" else 1e-4  # the phase of frame 0 is the sign of rounding noise there
    assert difference(model, x, expected) <= tolerance
    assert difference(model, x[2:3], encoder(x[2:3], "pooled" if name == "odd" else "head")) <= tolerance


@pytest.mark.slow
@torch.inference_mode()
def test_silence_and_steps(make, tmp_path):
    """Digital silence, on zero and off it, with the published epsilon, whose logarithms are steep."""
    encoder = make("one output")
    export(encoder, tmp_path / "a.onnx")
    x = torch.zeros(4, 8000)
    x[1] = 0.3
    x[2, 4000:] = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    x[3, 5000] = 1
    assert difference(session(tmp_path / "a.onnx"), x, encoder(x)) <= 1e-4


@pytest.mark.slow
def test_what_differs_is_not_written(make, tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"what was there")
    run = onnxruntime.InferenceSession.run
    wrong = lambda *arguments: [1.01 * output for output in run(*arguments)]  # noqa: E731
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", wrong)
    with pytest.raises(ConfigError, match=r"a\.onnx: not written, since .* differ from torch's by 1\.\de-02"):
        export(make("one output"), path, overwrite=True)
    assert path.read_bytes() == b"what was there" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": "mp3"}, r"input='mp3': unknown; use one of 'waveform', 'spectrogram'"),
        ({"layer": "neck"}, r"layer='neck': unknown"),
        ({"window_seconds": 0.03}, r"window_seconds=0\.03: must be from 0\.0320\d* to 600"),
        ({"window_seconds": float("nan")}, r"window_seconds=nan: must be"),
    ],
)
def test_what_is_unknown_or_out_of_range(make, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        export(make("published"), tmp_path / "a.onnx", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(make, tmp_path):
    encoder = make("published")
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(ConfigError, match=r"a\.onnx: exists; choose another name, or replace it with --overwrite"):
        export(encoder, tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match=r"folder '.*nowhere' does not exist; make it with mkdir -p"):
        export(encoder, tmp_path / "nowhere" / "a.onnx")
    with pytest.raises(ConfigError, match=r"a\.pt: ONNX is what is written; end the name in \.onnx"):
        export(encoder, tmp_path / "a.pt")
    result = command("no-such-model", tmp_path / "a.pt")  # before anything is loaded
    assert result.exit_code == 2 and "end the name in .onnx" in result.output
    assert command("no-such-model", tmp_path / "b.onnx").exit_code == 3


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_packages(make, tmp_path, monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"onnx\w*(\.\w+)? cannot be imported .*pip install 'mtslvr\[onnx\]'"):
        export(make("published"), tmp_path / "a.onnx")


# The command line


def command(*arguments):
    return CliRunner().invoke(main, ["export", *(str(argument) for argument in arguments)])


@pytest.mark.slow
@torch.inference_mode()
def test_the_command(make, tmp_path, monkeypatch):
    encoder, out = make("ours"), tmp_path / "out.onnx"
    folder = encoder.save(tmp_path / "model", dtype=torch.float32, card="---\nlicense: cc-by-4.0\n---\n# A model\n")
    result = command(folder, out, "--window", 0.25)
    assert result.exit_code == 0, result.output
    assert "MB; checked: differs from torch by" in result.stdout and not result.stderr
    model = session(out)
    [given] = model.get_inputs()
    assert (given.name, given.type, given.shape) == ("waveform", "tensor(float)", ["batch", 4000])
    widths = [(output.name, output.shape) for output in model.get_outputs()]
    assert widths == [("invariant", ["batch", 500]), ("variant", ["batch", 500])]
    x = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    assert difference(model, x, encoder(x)) <= 1e-4
    facts = model.get_modelmeta().custom_metadata_map
    assert (facts["model"], facts["licence"], facts["mtslvr"]) == ("model", "cc-by-4.0", mtslvr.__version__)
    assert facts["model_sha256"] == checkpoint.sha256(folder / "model.safetensors")
    assert (facts["sample_rate"], facts["window_seconds"], facts["layer"]) == ("16000", "0.25", "head")
    assert facts["features"] == "invariant, variant" and '"epsilon": 0.001' in facts["encoder"]
    again = command(folder, out)
    assert again.exit_code == 2 and "exists; choose another name" in again.output
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = command(folder, out, "--input", "spectrogram", "--layer", "pooled", "--overwrite")
    assert result.exit_code == 0 and "not checked: onnxruntime is not installed" in result.output
    monkeypatch.undo()
    model = session(out)
    assert model.get_inputs()[0].shape == ["batch", 3, 128, 16]
    x = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    spectrogram = encoder.frontend(encoder.normalize(x))
    assert difference(model, spectrogram, encoder(x, "pooled")) <= 1e-4
