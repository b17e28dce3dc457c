import dataclasses
import sys

import pytest
import torch
from click.testing import CliRunner
from fill_rule import relative
from narrow import cut_widths

import mtslvr
from mtslvr.cli.main import main
from mtslvr.config import AdapterKind, EncoderConfig, FrontendConfig, Normalization, Phase, Rows
from mtslvr.errors import ConfigError
from mtslvr.models import checkpoint
from mtslvr.nn.encoder import Encoder
from mtslvr.onnx import export

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'mtslvr[onnx]'")
pytestmark = pytest.mark.extra("onnx")

STABLE = {"epsilon": 1e-3, "phase": Phase.STABLE}
GLOBAL = {"normalization": Normalization.GLOBAL, "global_mean": 0.1, "global_std": 0.3}
ODD = {"sample_rate": 8000, "f_max": 3500, "n_fft": 400, "hop_length": 160, "n_mels": 97}
ROWS = {"invariant_rows": Rows((2, 4), (1, 3), means=True), "variant_rows": Rows((0, 0), (0, 4))}
CONFIGS = {
    "published": EncoderConfig(),
    "ours": EncoderConfig(FrontendConfig(**STABLE), spectral_statistics=True, **ROWS),
    "odd": EncoderConfig(FrontendConfig(**ODD, **STABLE), AdapterKind.SERIES, variant_rows=Rows((6, 7)), **GLOBAL),
    "one output": EncoderConfig(FrontendConfig(channels=1), AdapterKind.NONE, 1, 1, normalization=Normalization.NONE),
    "one path": EncoderConfig(FrontendConfig(n_mels=16, **STABLE), AdapterKind.SPLIT, tasks=1),
    "one head": EncoderConfig(FrontendConfig(n_mels=16, **STABLE), AdapterKind.BN, heads=1),
}


@pytest.fixture(scope="module")
def make(randomize):
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        cut_widths(patch.setattr)
        torch.manual_seed(0)
        configs = {name: dataclasses.replace(config, window_seconds=0.5) for name, config in CONFIGS.items()}
        made = {name: randomize(Encoder(config)) for name, config in configs.items()}
        yield made.get


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def difference(model, given, expected):
    found = model.run(["invariant", "variant"], {model.get_inputs()[0].name: given.numpy()})
    return max(relative(found[0], expected.invariant.numpy()), relative(found[1], expected.variant.numpy()))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_every_kind_of_encoder(make, tmp_path, name):
    encoder, layer = make(name), "pooled" if name == "odd" else "head"
    assert 0 < export(encoder, tmp_path / "a.onnx", layer=layer) <= 1e-4
    model, draw = session(tmp_path / "a.onnx"), torch.Generator().manual_seed(0)
    x = 0.2 * torch.randn(5, encoder.config.window_length, generator=draw) + 0.05
    tolerance = 2e-2 if name == "published" else 1e-4  # the phase of frame 0 is the sign of rounding noise there
    for given in (x, x[2:3]):
        assert difference(model, given, encoder(given, layer)) <= tolerance
    if name == "one output":  # silence and steps with the published epsilon, whose logarithms are steep
        x = torch.zeros(4, 8000)
        x[1] = 0.3
        x[2, 4000:] = 0.1 * torch.randn(4000, generator=draw)
        x[3, 5000] = 1
        assert difference(model, x, encoder(x)) <= tolerance


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


def command(*arguments):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_what_is_unknown_out_of_range_or_cannot_be_written(make, tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    for name, options, said in (
        ("a.onnx", {"input": "mp3"}, "input='mp3': unknown; use one of 'waveform', 'spectrogram'"),
        ("a.onnx", {"layer": "neck"}, "layer='neck': unknown"),
        ("a.onnx", {"window_seconds": 0.03}, r"window_seconds=0\.03: must be from 0\.0320\d* to 600"),
        ("a.onnx", {"window_seconds": "5"}, "window_seconds='5': must be from"),
        ("a.onnx", {"window_seconds": float("nan")}, "window_seconds=nan: must be"),
        ("folder.onnx", {}, r"folder\.onnx: exists; choose another name, or replace it with overwrite=True$"),
        ("nowhere/a.onnx", {}, "folder '.*nowhere' does not exist; make it with mkdir -p"),
        ("a.pt", {}, r"a\.pt: ONNX is what is written; end the name in \.onnx"),
    ):
        with pytest.raises(ConfigError, match=said):
            export(make("published"), tmp_path / name, **options)
    assert command("no-such-model", tmp_path / "a.pt").exit_code == 2  # before anything is loaded
    assert command("no-such-model", tmp_path / "b.onnx").exit_code == 3
    assert "or replace it with --overwrite\n" in command("no-such-model", tmp_path / "folder.onnx").output
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.onnx"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_packages(make, tmp_path, monkeypatch, package):
    for name in {package, *(name for name in sys.modules if name.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"onnx\w*(\.\w+)? cannot be imported .*pip install 'mtslvr\[onnx\]'"):
        export(make("published"), tmp_path / "a.onnx")


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
    x = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    assert difference(model, x[:, :4000], encoder(x[:, :4000])) <= 1e-4
    facts = model.get_modelmeta().custom_metadata_map
    assert (facts["model"], facts["licence"], facts["mtslvr"]) == ("model", "cc-by-4.0", mtslvr.__version__)
    assert facts["model_sha256"] == checkpoint.sha256(folder / "model.safetensors")
    assert (facts["sample_rate"], facts["window_seconds"], facts["layer"]) == ("16000", "0.25", "head")
    assert facts["features"] == "invariant, variant" and '"epsilon": 0.001' in facts["encoder"]
    assert "exists; choose another name" in command(folder, out).output
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = command(folder, out, "--input", "spectrogram", "--layer", "pooled", "--overwrite")
    assert result.exit_code == 0 and "not checked: onnxruntime is not installed" in result.output
    monkeypatch.undo()
    model = session(out)
    assert model.get_inputs()[0].shape == ["batch", 3, 128, 16]
    spectrogram = encoder.frontend(encoder.normalize(x))
    assert difference(model, spectrogram, encoder(x, "pooled")) <= 1e-4
