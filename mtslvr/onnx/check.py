"""An ONNX model beside the encoder it was made from, on inputs that are easy and hard; ONNX Runtime runs it."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ..config import Layer, Phase
from ..nn.encoder import Encoder
from .nodes import library

TOLERANCE = 1e-4
SPECTROGRAM = "spectrogram"  # name of the front end's output in the graph, of the input where there is no front end


def deviation(model: Any, encoder: Encoder, layer: Layer, length: int | None) -> float | None:
    """The largest difference from torch, in parts of the largest number of the row that it is in.

    Noise, silence and loud noise go in, alone and as one batch; in two lengths where the length is free. The phase of
    frame 0 is the sign of rounding noise where `Phase.PUBLISHED` lets it through, so torch gets there what the model
    has found.

    Args:
        model: from `build`.
        encoder: what it was made from.
        layer: its layer.
        length: its fixed number of samples, or None.
    Returns:
        None where ONNX Runtime is not installed.
    """
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return None
    session = _session(runtime, model)
    window = encoder.config.window_length
    lengths = [length] if length else [window, max(encoder.config.frontend.n_fft, int(0.7 * window))]
    worst = 0.0
    for samples in lengths:
        batch = _inputs(samples)
        for waveforms in (batch, *torch.split(batch, 1)):
            worst = max(worst, _deviation(session, encoder, layer, waveforms))
    return worst


def _inputs(samples: int) -> Tensor:
    """(3, samples): noise, silence, loud noise off zero."""
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    return torch.stack([0.1 * noise[0], torch.zeros(samples), 1e4 * noise[1] + 3e3])


def _session(runtime: Any, model: Any) -> Any:
    """The model made to tell its spectrogram, too."""
    watched = type(model)()
    watched.CopyFrom(model)
    if all(value.name != SPECTROGRAM for value in watched.graph.input):
        watched.graph.output.append(library().helper.make_empty_tensor_value_info(SPECTROGRAM))
    runtime.disable_telemetry_events()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def _deviation(session: Any, encoder: Encoder, layer: Layer, waveforms: Tensor) -> float:
    [given] = session.get_inputs()
    spectrogram = encoder.frontend(encoder.normalize(waveforms))
    found = session.run(None, {given.name: (spectrogram if given.name == SPECTROGRAM else waveforms).numpy()})
    invariant, variant, *seen = (torch.from_numpy(output) for output in found)
    frontend = encoder.config.frontend
    if seen and frontend.channels == 3 and frontend.phase is Phase.PUBLISHED:
        spectrogram[:, 2, :, 0] = seen[0][:, 2, :, 0]
    expected = encoder.encode_spectrogram(spectrogram, layer)
    return max(_relative(invariant, expected.invariant), _relative(variant, expected.variant))


def _relative(found: Tensor, expected: Tensor) -> float:
    """Infinite where the shapes or what is finite differ."""
    if found.shape != expected.shape or not found.isfinite().all():
        return float("inf")
    largest = expected.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return float(((found - expected).abs().amax(dim=1) / largest).max())
