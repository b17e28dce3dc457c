"""Winograd's algorithm against direct convolution: layer by layer with torch, the whole network with OpenVINO."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from model_card import table
from torch import Tensor
from torch.nn import functional as F

from mtslvr import adapters, openvino, winograd
from mtslvr.adapters import FoldedConv
from mtslvr.encoder import Encoder, Engine

from . import candidates, timing
from .sounds import clips


@contextmanager
def switched_off() -> Iterator[None]:
    """All convolutions are direct in here: torch's, and those of the networks that OpenVINO compiles."""
    before = adapters.WINOGRAD_CHANNELS, openvino.WINOGRAD_CHANNELS
    adapters.WINOGRAD_CHANNELS = openvino.WINOGRAD_CHANNELS = ()
    try:
        yield
    finally:
        adapters.WINOGRAD_CHANNELS, openvino.WINOGRAD_CHANNELS = before


def direct(call: Callable[[], Any]) -> Callable[[], Any]:
    """The same call with all convolutions direct."""

    def called() -> Any:
        with switched_off():
            return call()

    return called


def time_layers(batch: int, rounds: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """For each dtype of torch's: of a 3x3 convolution of each stage seconds and errors of both ways."""
    found = {}
    for name in ("torch float32", "torch bfloat16"):
        with contextlib.suppress(candidates.Absent):
            encoder = candidates.load(name)
            stages = [encoder.trunk.layer1, encoder.branches.layer2, encoder.branches.layer3, encoder.branches.layer4]
            with torch.inference_mode():
                waveforms = clips(batch, seed=seed)
                found[name] = [time_layer(stage[1].conv1, encoder, waveforms, rounds) for stage in stages]
    return found


def time_networks(batch: int, rounds: int, seed: int) -> dict[str, dict[str, Any]]:
    """For each dtype of OpenVINO's: of trunk and branches, for windows, seconds and errors of both ways."""
    found = {}
    for name in ("openvino float32", "openvino bfloat16"):
        with contextlib.suppress(candidates.Absent):
            encoder = candidates.load(name)
            engine, encoder.engine = encoder.engine, None
            assert engine is not None
            with torch.inference_mode():
                found[name] = time_network(engine, encoder, clips(batch, seed=seed), rounds)
    return found


def time_network(engine: Engine, encoder: Encoder, waveforms: Tensor, rounds: int) -> dict[str, Any]:
    """An engine, and a copy of it that has all convolutions direct, against the encoder itself in float32."""
    tasks = tuple(range(encoder.config.tasks))
    with timing.one_thread():
        spectrogram = encoder.frontend(encoder.normalize(waveforms))
        shared = encoder.shared(spectrogram)
        exact = torch.cat([encoder.read(shared, task) for task in tasks], dim=1)
    errors, calls = {}, {}
    for way, used, context in (
        ("winograd", engine, contextlib.nullcontext()),
        ("direct", copy.deepcopy(engine), switched_off()),
    ):
        calls[way] = timing.on_all_threads(lambda used=used: used(spectrogram, tasks))
        with context:  # networks are compiled when they are first used
            calls[way]()
            with timing.one_thread():
                read = torch.cat(used(spectrogram, tasks), dim=1)
        errors[way] = float((read - exact).norm() / exact.norm())
    return {"errors": errors, "seconds": timing.alternate(calls, rounds)}


def time_layer(module: Any, encoder: Any, waveforms: Tensor, rounds: int) -> dict[str, Any]:
    """One convolution on the input that it gets in the network."""
    assert isinstance(module, FoldedConv)
    inputs: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with timing.one_thread():
        encoder.embedding(waveforms, "concat")
    hook.remove()
    x, weight, bias = inputs[0], module.weights[0], module.biases[0]
    kernel = winograd.kernel_of(weight)
    calls: dict[str, Callable[[], Tensor]] = {
        "direct": lambda: module(x, 0, relu=True),
        "winograd": lambda: winograd.convolve(x, kernel, bias, relu=True),
    }
    timed = {name: timing.on_all_threads(call) for name, call in calls.items()}
    timed["direct"] = direct(timed["direct"])
    calls["direct"] = direct(calls["direct"])
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1).relu()
    return {
        "layer": f"{weight.shape[1]} to {weight.shape[0]}, on {x.shape[2]}x{x.shape[3]}",
        "used": weight.shape[1] in adapters.WINOGRAD_CHANNELS,
        "errors": {name: float((call() - exact).abs().max() / exact.max()) for name, call in calls.items()},
        "seconds": timing.alternate(timed, rounds),
    }


def render(data: dict[str, Any], batch: int) -> str:
    """A row for each layer or network, dtype and number of threads."""
    rows = [["3x3 convolution", "dtype", "threads", "used", "speed, times direct", "error", "error of direct"]]
    for threads, measured in data.items():
        for name, stages in measured["winograd"].items():
            for found in stages:
                used = "yes" if found["used"] else "no"
                rows.append([found["layer"], name.removeprefix("torch "), threads, used, *_compared(found)])
    whole = [["OpenVINO, windows", "threads", "speed, times direct", "error", "error of direct"]]
    for threads, measured in data.items():
        networks = measured["networks"].items()
        whole.extend([name.removeprefix("openvino "), threads, *_compared(found)] for name, found in networks)
    return (
        "**Winograd's algorithm** (`mtslvr/winograd.py`): F(4, 3) over rows, half of the multiplications, with torch, "
        f"against the direct convolution of the same layer in alternation; bias and ReLU on both sides, {batch} clips "
        "on each thread at the same time. The network uses it where it says so; not with 512 channels, whose kernels "
        "take longer to read than one clip takes to compute. Errors are the largest, of largest values, against "
        f"float64 with the same weights and inputs.\n\n{table(rows)}\n\n"
        "With OpenVINO (`mtslvr/openvino_graph.py`) windows of the encoder's own length are convolved so in all four "
        f"stages: trunk and branches for {batch} clips on each thread, against the same network with all convolutions "
        "direct, in alternation. Errors are of norms, of what the heads read, against torch in float32.\n\n"
        f"{table(whole)}"
    )


def _compared(found: dict[str, Any]) -> list[str]:
    ratio = timing.ratios(found["seconds"]["direct"], found["seconds"]["winograd"])
    return [timing.spread(ratio), *(f"{found['errors'][way]:.1e}" for way in ("winograd", "direct"))]
