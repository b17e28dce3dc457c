"""The network in int8 by OpenVINO, quantised by NNCF; tried once."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from model_card import table
from torch import Tensor, nn

import mtslvr
from mtslvr.encoder import Encoder

from . import timing
from .sounds import clips


class Paths(nn.Module):
    """Spectrogram to what each task's head reads, but for the spectral statistics."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, ...]:
        """(B, channels, n_mels, frames) to (B, D) of each task."""
        encoder = self.encoder
        shared = encoder.trunk(spectrogram)
        return tuple(encoder.read(shared, t) for t in range(encoder.config.tasks))


def compare(batch: int, rounds: int, seed: int, calibration: int) -> dict[str, Any]:
    """Seconds of trunk and branches in float32, bfloat16 and int8, all by OpenVINO, and errors of the embeddings."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # or both report to their makers
    try:
        openvino, nncf = (importlib.import_module(name) for name in ("openvino", "nncf"))
    except ImportError as error:
        return {"absent": str(error)}
    encoder = mtslvr.load(device="cpu")
    with torch.inference_mode():
        spectrogram = spectrograms(encoder, batch, seed)
        samples = [spectrograms(encoder, 1, seed + 1 + i).numpy() for i in range(calibration)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, about branches that every batch takes alike
        model = openvino.convert_model(Paths(encoder), example_input=spectrogram, input=[-1, *spectrogram.shape[1:]])
    quantised = nncf.quantize(model, nncf.Dataset(samples), subset_size=calibration)
    calls = {
        "float32": compiled(openvino, model, "f32", spectrogram),
        "bfloat16": compiled(openvino, model, "bf16", spectrogram),
        "int8": compiled(openvino, quantised, "f32", spectrogram),
    }
    with torch.inference_mode():
        wanted = embeddings(encoder, spectrogram, None)
        errors = {name: deviation(embeddings(encoder, spectrogram, call), wanted) for name, call in calls.items()}
    return {
        "batch": batch,
        "calibration": calibration,
        "errors": errors,
        "seconds": timing.alternate(calls, rounds),
        "versions": f"OpenVINO {openvino.__version__.split('-')[0]}, NNCF {nncf.__version__}",
    }


def spectrograms(encoder: Encoder, count: int, seed: int) -> Tensor:
    """(count, channels, n_mels, frames) of made clips."""
    return encoder.frontend(encoder.normalize(clips(count, seed=seed))).contiguous()


def compiled(openvino: Any, model: Any, precision: str, spectrogram: Tensor) -> Callable[[], list[Tensor]]:
    """One call of a model on a spectrogram, with torch's number of threads."""
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    array = spectrogram.numpy()
    return lambda: [torch.from_numpy(rows.copy()) for rows in request.infer([array], share_inputs=True).values()]


def embeddings(encoder: Encoder, spectrogram: Tensor, call: Callable[[], Sequence[Tensor]] | None) -> Tensor:
    """(B, D) of both heads, from what `call` gives for each to read, or from the encoder's own."""
    if call is not None:
        pooled = list(call())
        encoder.engine = lambda _, tasks: pooled
    result = encoder.encode_spectrogram(spectrogram).concat
    encoder.engine = None
    return result


def deviation(got: Tensor, wanted: Tensor) -> dict[str, float]:
    """Relative error (norms over all rows) and the lowest cosine of a row."""
    cosine = torch.nn.functional.cosine_similarity(got, wanted, dim=1)
    return {"relative": float((got - wanted).norm() / wanted.norm()), "cosine": float(cosine.min())}


def render(data: dict[str, Any]) -> str:
    """Speed and error of the three."""
    title = "**int8, tried once**"
    if "absent" in data:
        return f"{title}: not measured ({data['absent']}; `pip install openvino nncf`)."
    rows = [["trunk and branches", "clips/s", "times float32", "relative error", "lowest cosine"]]
    for name, values in data["seconds"].items():
        ratio = timing.ratios(data["seconds"]["float32"], values)
        told = data["errors"][name]
        clips_a_second = timing.rate(values, data["batch"])
        rows.append([name, clips_a_second, timing.spread(ratio), f"{told['relative']:.1e}", f"{told['cosine']:.5f}"])
    return (
        f"{title}: trunk and branches quantised after training ({data['versions']}, default settings, "
        f"{data['calibration']} made clips for calibration), {data['batch']} clips, {data['threads']} threads, in "
        "alternation with OpenVINO's other dtypes, all convolutions direct. Errors are of the embeddings against torch "
        f"float32, on made clips.\n\n{table(rows)}"
    )
