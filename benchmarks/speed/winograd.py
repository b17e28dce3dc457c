"""Winograd's algorithm, which the network uses for some float32 convolutions, against direct convolution for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from model_card import table
from torch import Tensor

from mtslvr import adapters, winograd
from mtslvr.adapters import FoldedConv

from . import candidates, timing
from .sounds import clips


@contextmanager
def switched_off() -> Iterator[None]:
    """All convolutions are direct in here."""
    before, adapters.WINOGRAD_CHANNELS = adapters.WINOGRAD_CHANNELS, ()
    try:
        yield
    finally:
        adapters.WINOGRAD_CHANNELS = before


def direct(call: Callable[[], Any]) -> Callable[[], Any]:
    """The same call with all convolutions direct."""

    def called() -> Any:
        with switched_off():
            return call()

    return called


def time_layers(batch: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Seconds of both ways, and how far both are from float64, for a 3x3 convolution of each stage."""
    encoder = candidates.load("torch float32")
    stages = [encoder.trunk.layer1, encoder.branches.layer2, encoder.branches.layer3, encoder.branches.layer4]
    with torch.inference_mode():
        return [time_layer(stage[1].conv1, encoder, clips(batch, seed=seed), rounds) for stage in stages]


def time_layer(module: Any, encoder: Any, waveforms: Tensor, rounds: int) -> dict[str, Any]:
    """One convolution on the input that it gets in the network."""
    assert isinstance(module, FoldedConv)
    inputs: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with timing.one_thread():
        encoder.embedding(waveforms, "concat")
    hook.remove()
    x, weight, bias = inputs[0], module.weights[0], module.biases[0]
    kernel = winograd.reorder_kernel(weight)
    calls: dict[str, Callable[[], Tensor]] = {
        "direct": lambda: module(x, 0, relu=True),
        "winograd": lambda: winograd.convolve(x, kernel, bias, relu=True),
    }
    timed = {name: timing.on_all_threads(call) for name, call in calls.items()}
    timed["direct"] = direct(timed["direct"])
    calls["direct"] = direct(calls["direct"])
    exact = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=1).relu()
    return {
        "layer": f"{weight.shape[1]} to {weight.shape[0]}, on {x.shape[2]}x{x.shape[3]}",
        "used": weight.shape[1] in adapters.WINOGRAD_CHANNELS,
        "errors": {name: float((call() - exact).abs().max() / exact.max()) for name, call in calls.items()},
        "seconds": timing.alternate(timed, rounds),
    }


def render(data: dict[str, Any], batch: int) -> str:
    """A row for each layer and number of threads."""
    rows = [["3x3 convolution", "threads", "used", "speed, times direct", "error", "error of direct"]]
    for threads, layers in data.items():
        for found in layers:
            ratio = timing.ratios(found["seconds"]["direct"], found["seconds"]["winograd"])
            errors = [f"{found['errors'][name]:.1e}" for name in ("winograd", "direct")]
            rows.append([found["layer"], threads, "yes" if found["used"] else "no", timing.spread(ratio), *errors])
    return (
        "**Winograd's algorithm** (`mtslvr/winograd.py`): F(4x4, 3x3), up to 4 times fewer multiplications, float32, "
        f"against the direct convolution of the same layer in alternation; bias and ReLU on both sides, {batch} clips "
        "on each thread at the same time. The network uses it where it says so; not with 512 channels, whose kernels "
        "take longer to read than one clip takes to compute. Errors are the largest, of largest values, against "
        f"float64.\n\n{table(rows)}"
    )
