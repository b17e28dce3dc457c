"""An encoder to one ONNX file: torch's exporter writes it, ONNX Runtime is compared with torch before it is kept."""

from __future__ import annotations

import enum
import importlib
import json
import logging
import math
import numbers
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .config import EncoderConfig, Layer, Phase, parse_enum
from .errors import ConfigError
from .nn.encoder import Encoder
from .run.files import resolve, write_file

TOLERANCE = 1e-4


class Input(str, enum.Enum):
    """What the model takes."""

    WAVEFORM = "waveform"
    SPECTROGRAM = "spectrogram"


def export(
    encoder: Encoder,
    path: str | os.PathLike[str],
    *,
    input: Input | str = Input.WAVEFORM,
    layer: Layer | str = Layer.HEAD,
    window_seconds: float | None = None,
    facts: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> float | None:
    """Write an ONNX model that computes what `encoder` does, with outputs "invariant" and "variant".

    Embeddings of noise, silence and loud noise, alone and as one batch, are compared with torch's first.

    Args:
        encoder: from `mtslvr.load`, folded or not; exported in float32.
        path: of the file, which ends in .onnx.
        input: "waveform", (batch, samples) mono float32 at `encoder.sample_rate` Hz, or "spectrogram", the front end's
            output, (batch, channels, n_mels, frames); the batch is free.
        layer: "head" or "pooled".
        window_seconds: the length that the model takes; by default the encoder's own window.
        facts: more metadata for the file.
        overwrite: replace what is at `path`.
    Returns:
        The largest difference from torch in parts of the largest number of the embedding that it is in; None where
        ONNX Runtime is not installed to tell.
    Raises:
        ConfigError: onnx or onnxscript is not installed, unknown input or layer, a window out of range, a file that is
            there, cannot be written or does not end in .onnx, or a model that differs from torch by more than 1e-4,
            which is not written.
    """
    target = check_target(path, overwrite=overwrite)
    part = _Exported(encoder.fold().cpu().float(), parse_enum(Input, input, "input"), parse_enum(Layer, layer, "layer"))
    length = _length(encoder.config, window_seconds)
    examples = _examples(length)
    if part.kind is Input.SPECTROGRAM:
        examples = encoder.frontend(encoder.normalize(examples))
    model = _convert(part, examples)
    worst = _deviation(model.SerializeToString(), part, examples)
    if worst is not None and not worst <= TOLERANCE:
        raise ConfigError(
            f"{target}: not written, since ONNX Runtime's embeddings differ from torch's by {worst:.1e} of the largest "
            f"number, and {TOLERANCE:.0e} is allowed; try input='spectrogram', and report the model and the versions"
        )
    del model.graph.output[2:]  # the spectrogram, which only the comparison reads
    _library("onnx").helper.set_model_props(model, {**_facts(part, length), **(facts or {})})
    write_file(target, model.SerializeToString())
    return worst


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The place of a file that can be written there, which ends in .onnx; else a ConfigError."""
    target = Path(path)
    if target.suffix.lower() != ".onnx":
        raise ConfigError(f"{target}: ONNX is what is written; end the name in .onnx")
    if target.exists() and not overwrite:
        raise ConfigError(f"{target}: exists; choose another name, or replace it with overwrite=True")
    resolve(target)
    return target


class _Exported(nn.Module):
    """What is exported: both embeddings, and the spectrogram that they were made from."""

    def __init__(self, encoder: Encoder, kind: Input, layer: Layer) -> None:
        super().__init__()
        self.encoder, self.kind, self.layer = encoder, kind, layer

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D), (B, D) and (B, channels, n_mels, frames), from the input of the kind."""
        waveform = self.kind is Input.WAVEFORM
        spectrogram = self.encoder.frontend(self.encoder.normalize(given)) if waveform else given.clone()
        found = self.encoder.encode_spectrogram(spectrogram, self.layer)
        return found.invariant, found.variant.clone(), spectrogram  # two outputs of one name where both are the same


def _length(config: EncoderConfig, window_seconds: float | None) -> int:
    rate = config.frontend.sample_rate
    seconds = config.window_seconds if window_seconds is None else window_seconds
    shortest = (config.frontend.n_fft // 2 + 1) / rate
    if not (isinstance(seconds, numbers.Real) and shortest <= seconds <= 600):
        raise ConfigError(f"window_seconds={seconds!r}: must be from {shortest:.4g} to 600")
    return round(seconds * rate)


def _examples(samples: int) -> Tensor:
    """(3, samples): noise, silence, loud noise off zero."""
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    return torch.stack([0.1 * noise[0], torch.zeros(samples), 1e4 * noise[1] + 3e3])


def _convert(part: _Exported, examples: Tensor) -> Any:
    """The onnx.ModelProto, with outputs "invariant", "variant" and the spectrogram found."""
    _library("onnx")
    optimizer = _library("onnxscript.optimizer")
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            part,
            (examples,),
            dynamo=True,
            optimize=False,  # it would take an epsilon of 2e-16 for zero, and silence would be infinite
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            input_names=[part.kind.value],
            output_names=["invariant", "variant", "found"],
            custom_translation_table=_translations(part.encoder.config.frontend.n_fft),
            verbose=False,
        )
        assert program is not None
        optimizer.inline(program.model)
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    return program.model_proto


def _translations(n_fft: int) -> dict[Any, Callable[..., Any]]:
    """In ONNX what the exporter lacks, and the real FFT, whose ONNX operator is inexact in some runtimes or lacking."""
    script = _library("onnxscript")
    op, bins = script.opset18, n_fft // 2 + 1
    fourier = np.fft.rfft(np.eye(n_fft)).astype(np.complex64)  # (n_fft, bins)
    basis = script.ir.tensor(fourier.view(np.float32))  # (n_fft, 2 bins): real and imaginary parts side by side

    def hypot(x: Any, y: Any) -> Any:
        return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y)))

    def rfft(frames: Any, *_: Any) -> Any:
        """(B, n, n_fft) to (B, n, bins, 2), a product with cosines and sines.

        The first sample of each frame is taken off before and added to bin 0 after, so that digital silence off zero
        gives nothing elsewhere, as in an FFT; a logarithm is steep there.
        """
        first = op.Slice(frames, [0], [1], [2])
        product = op.MatMul(op.Sub(frames, first), op.Constant(value=basis))
        constant = op.Pad(op.Mul(first, float(n_fft)), [0, 0, 0, 0, 0, 2 * bins - 1])
        return op.Reshape(op.Add(product, constant), [0, 0, bins, 2])

    return {torch.ops.aten.hypot.default: hypot, torch.ops.aten.fft_rfft.default: rfft}


@torch.inference_mode()
def _deviation(model: bytes, part: _Exported, examples: Tensor) -> float | None:
    """The largest difference from torch, see `export`.

    The phase of frame 0 is the sign of rounding noise where `Phase.PUBLISHED` lets it through, so torch gets there what
    the model has found.
    """
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    runtime.disable_telemetry_events()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    frontend, worst = part.encoder.config.frontend, 0.0
    for given in (examples, *torch.split(examples, 1)):
        *found, seen = (torch.from_numpy(x) for x in session.run(None, {part.kind.value: given.numpy()}))
        spectrogram = part(given)[2]
        if frontend.channels == 3 and frontend.phase is Phase.PUBLISHED:
            spectrogram[:, 2, :, 0] = seen[:, 2, :, 0]
        expected = part.encoder.encode_spectrogram(spectrogram, part.layer)
        worst = max(worst, *map(_relative, found, (expected.invariant, expected.variant)))
    return worst


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference in parts of the largest number of its row; infinite where shapes or what is finite differ."""
    if found.shape != expected.shape or not found.isfinite().all():
        return math.inf
    largest = expected.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return float(((found - expected).abs().amax(dim=1) / largest).max())


def _facts(part: _Exported, length: int) -> dict[str, str]:
    """What the file tells of itself, all of it text."""
    config = part.encoder.config
    return {
        "mtslvr": metadata.version("mtslvr"),
        "input": part.kind.value,
        "layer": part.layer.value,
        "features": "invariant, variant",
        "sample_rate": str(config.frontend.sample_rate),
        "window_seconds": str(length / config.frontend.sample_rate),
        "normalization": config.normalization.value,
        "encoder": json.dumps(config.to_dict()),
    }


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} cannot be imported ({error}); pip install 'mtslvr[onnx]'") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of other packages and of its own future."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
