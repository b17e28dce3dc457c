"""An encoder to one ONNX file: its graph, what is known of it, and its place on disk."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ..config import EncoderConfig, Features, Layer, parse_enum
from ..errors import ConfigError
from ..nn.encoder import Encoder
from ..run.files import atomic, guarded
from .check import SPECTROGRAM, TOLERANCE, deviation
from .frontend import normalize, spectrogram
from .network import Value, embeddings
from .nodes import OPSET, Nodes


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
    """Write an ONNX model that computes what `encoder` does; it is checked against torch first.

    Args:
        encoder: from `mtslvr.load`, folded or not; exported in float32.
        path: of the file, which ends in .onnx.
        input: "waveform", (batch, samples) mono float32 at `encoder.sample_rate` Hz, or "spectrogram", the front end's
            output, (batch, channels, n_mels, frames).
        layer: "head" or "pooled".
        window_seconds: the only length the model will take; None leaves it free.
        facts: more metadata for the file.
        overwrite: replace what is at `path`.
    Returns:
        The largest difference from torch, see `deviation`; None where ONNX Runtime is not installed to tell.
    Raises:
        ConfigError: onnx is not installed, unknown input or layer, a window too short, a file that is there, cannot
            be written or does not end in .onnx, or a model that differs from torch by more than 1e-4, which is not
            written.
    """
    target = check_target(path, overwrite=overwrite)
    folded = _plain(encoder)
    layer = parse_enum(Layer, layer, "layer")
    model = build(folded, input=input, layer=layer, window_seconds=window_seconds, facts=facts)
    worst = deviation(model, folded, layer, _length(folded.config, window_seconds))
    if worst is not None and not worst <= TOLERANCE:
        raise ConfigError(
            f"{target}: not written, since ONNX Runtime's embeddings differ from torch's by {worst:.1e} of the largest "
            f"number, and {TOLERANCE:.0e} is allowed; try input='spectrogram', and report the model and the versions"
        )
    with guarded(target), atomic(target) as file:
        file.write(model.SerializeToString())
    return worst


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The place of a file that can be written there.

    Raises:
        ConfigError: a name that does not end in .onnx, a file that is there, or no folder to put it in.
    """
    target = Path(path)
    if target.suffix.lower() != ".onnx":
        raise ConfigError(f"{target}: ONNX is what is written; end the name in .onnx")
    if target.exists() and not overwrite:
        raise ConfigError(f"{target}: exists; choose another name, or replace it with --overwrite (overwrite=True)")
    if not target.parent.is_dir():
        raise ConfigError(f"{target}: folder {str(target.parent)!r} does not exist; make it with mkdir -p")
    return target


def build(
    encoder: Encoder,
    *,
    input: Input | str = Input.WAVEFORM,
    layer: Layer | str = Layer.HEAD,
    window_seconds: float | None = None,
    facts: Mapping[str, str] | None = None,
) -> Any:
    """The onnx.ModelProto of a folded encoder, with outputs "invariant" and "variant"; arguments as of `export`.

    Raises:
        ConfigError: see `export`.
    """
    kind, layer = parse_enum(Input, input, "input"), parse_enum(Layer, layer, "layer")
    nodes, config = Nodes(), encoder.config
    length = _length(config, window_seconds)
    frames = None if length is None else 1 + length // config.frontend.hop_length
    if kind is Input.WAVEFORM:
        nodes.name(spectrogram(nodes, normalize(nodes, Input.WAVEFORM.value, config), config.frontend), SPECTROGRAM)
    value = Value(SPECTROGRAM, config.frontend.channels, config.frontend.n_mels, frames)
    for output, name in zip(embeddings(nodes, encoder, value, layer), ("invariant", "variant"), strict=True):
        nodes.name(output, name)
    shapes: dict[Input, list[Any]] = {
        Input.WAVEFORM: ["batch", length or "samples"],
        Input.SPECTROGRAM: ["batch", value.channels, value.height, frames or "frames"],
    }
    model = _model(nodes, kind.value, shapes[kind], _widths(config, layer))
    nodes.onnx.helper.set_model_props(model, {**_facts(config, kind, layer, length), **(facts or {})})
    nodes.onnx.checker.check_model(model, full_check=True)
    return model


def _plain(encoder: Encoder) -> Encoder:
    """A folded copy in float32 on the CPU."""
    return encoder.fold().cpu().float()


def _length(config: EncoderConfig, window_seconds: float | None) -> int | None:
    if window_seconds is None:
        return None
    shortest = (config.frontend.n_fft // 2 + 1) / config.frontend.sample_rate
    if not (shortest <= window_seconds <= 600):
        raise ConfigError(f"window_seconds={window_seconds!r}: must be from {shortest:.4g} to 600")
    return round(window_seconds * config.frontend.sample_rate)


def _widths(config: EncoderConfig, layer: Layer) -> dict[str, int]:
    return {kind.value: config.embedding_dim(kind, layer) for kind in (Features.INVARIANT, Features.VARIANT)}


def _model(nodes: Nodes, name: str, shape: list[Any], widths: Mapping[str, int]) -> Any:
    helper, kind = nodes.onnx.helper, nodes.onnx.TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(name, kind, shape)]
    outputs = [helper.make_tensor_value_info(output, kind, ["batch", width]) for output, width in widths.items()]
    graph = helper.make_graph(nodes.nodes, "mtslvr", inputs, outputs, nodes.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    version = helper.find_min_ir_version_for(opsets)  # so that older runtimes read it
    about = {"producer_name": "mtslvr", "producer_version": metadata.version("mtslvr")}
    return helper.make_model(graph, opset_imports=opsets, ir_version=version, **about)


def _facts(config: EncoderConfig, kind: Input, layer: Layer, length: int | None) -> dict[str, str]:
    """What the file tells of itself, all of it text."""
    return {
        "mtslvr": metadata.version("mtslvr"),
        "input": kind.value,
        "layer": layer.value,
        "features": "invariant, variant",
        "sample_rate": str(config.frontend.sample_rate),
        "window_seconds": str(config.window_seconds if length is None else length / config.frontend.sample_rate),
        "normalization": config.normalization.value,
        "encoder": json.dumps(config.to_dict()),
    }
