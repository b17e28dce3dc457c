"""Arithmetic rate of each convolution, done directly; Winograd's algorithm beside it, and int8, tried once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from model_card import table
from torch import Tensor

from mtslvr.adapters import FoldedConv
from mtslvr.encoder import Encoder

from . import candidates, int8, timing, winograd
from .plan import Plan
from .sounds import clips

TITLE = "Ceiling of direct convolution"
DTYPES = ("torch float32", "torch bfloat16")
DIRECT = "network, all direct"
OWN = "all convolutions, each at its own rate"
SIDE = 2048  # of the square matrices


def measure(plan: Plan) -> dict[str, Any]:
    """For each number of threads, in processes of their own."""
    batch, rounds = plan.pick((16, 9), (2, 2))
    common = {"batch": batch, "rounds": rounds, "seed": plan.seed}
    found = {
        str(threads): {
            "layers": plan.call(time_layers, threads, **common),
            "winograd": plan.call(winograd.time_layers, threads, **common),
            "networks": plan.call(winograd.time_networks, threads, **common),
        }
        for threads in plan.threads
    }
    calibration = plan.pick(64, 4)
    return {
        "threads": found,
        "batch": batch,
        "int8": plan.call(int8.compare, plan.most, **common, calibration=calibration) | {"threads": plan.most},
    }


@dataclass
class Layer:
    """One convolution of the network with the input that it gets.

    Attributes:
        name: channels, kernel, stride, size of the input.
        operations: multiplications and additions of one call.
        call: the convolution with what is fused to it.
        clips: of one call; the first layers take a batch in parts.
        rows: clips of all calls with the same name.
    """

    name: str
    operations: float
    call: Callable[[], Tensor]
    clips: int
    rows: int


def layers_of(encoder: Encoder, waveforms: Tensor) -> list[Layer]:
    """Every distinct convolution of a folded encoder, in order, with what one thread gives it."""
    found: dict[str, Layer] = {}

    def note(module: FoldedConv, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> None:
        x, task = args[:2]
        weight = module.weights[task]
        name = f"{weight.shape[1]} to {weight.shape[0]}, {weight.shape[2]}x{weight.shape[3]}"
        name += f" / {module.stride[0]}, on {x.shape[2]}x{x.shape[3]}"
        if kwargs.get("rows"):
            name += f", {y.shape[2]} rows of it"
        if name in found:
            found[name].rows += len(x)
        else:
            operations = 2.0 * y.numel() * weight[0].numel()
            found[name] = Layer(name, operations, lambda: module.forward(*args, **kwargs), len(x), len(x))

    convolutions = [module for module in encoder.modules() if isinstance(module, FoldedConv)]
    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in convolutions]
    with timing.one_thread():
        encoder.embedding(waveforms, "concat")
    for hook in hooks:
        hook.remove()
    return list(found.values())


def time_layers(batch: int, rounds: int, seed: int) -> dict[str, Any]:
    """By dtype: GFLOP of a call and seconds of the calls timed, of each layer, of the network and of a matrix product.

    `work` is what a batch needs of each layer, in GFLOP, all its calls together.
    """
    found: dict[str, Any] = {}
    waveforms = clips(batch, seed=seed)
    for name in DTYPES:
        try:
            encoder = candidates.load(name)
        except candidates.Absent as error:
            found[name] = {"absent": str(error)}
            continue
        with torch.inference_mode():
            layers = layers_of(encoder, waveforms)
            spectrogram = encoder.frontend(encoder.normalize(waveforms))
            square = torch.randn(SIDE, SIDE, dtype=encoder.dtype)
            once: dict[str, Callable[[], Any]] = {layer.name: layer.call for layer in layers}
            once["network"] = once[DIRECT] = lambda e=encoder, s=spectrogram: e.paths(s, range(e.config.tasks))
            once["matrix product"] = lambda s=square: s @ s
            calls = {key: timing.on_all_threads(call) for key, call in once.items()}
            calls = {key: call if key == "network" else winograd.direct(call) for key, call in calls.items()}
            seconds = timing.alternate(calls, rounds)
        gflop = {layer.name: layer.operations / 1e9 for layer in layers}
        work = {layer.name: layer.rows / layer.clips * layer.operations / 1e9 for layer in layers}
        gflop["network"] = gflop[DIRECT] = sum(work.values())
        gflop["matrix product"] = 2e-9 * SIDE**3
        found[name] = {
            "gflop": gflop,
            "work": work,
            "calls": timing.REPEATS * torch.get_num_threads(),
            "seconds": seconds,
            "counts": {layer.name: layer.rows // batch for layer in layers},
        }
    return found


def rates(found: dict[str, Any]) -> dict[str, float]:
    """GFLOP a second of everything measured with one dtype, by medians."""
    gflop = {name: found["calls"] * value for name, value in found["gflop"].items()}
    return {name: gflop[name] / timing.middle(values) for name, values in found["seconds"].items()}


def best_layer(found: dict[str, Any]) -> tuple[str, float]:
    """The fastest convolution and its rate."""
    return max(((name, rate) for name, rate in rates(found).items() if name in found["counts"]), key=lambda x: x[1])


def own_rates(found: dict[str, Any]) -> float:
    """GFLOP a second of all convolutions of the network, each as fast as it is alone."""
    alone = rates(found)
    return float(sum(found["work"].values()) / sum(work / alone[name] for name, work in found["work"].items()))


def render(data: dict[str, Any]) -> str:
    """Layers, ceilings, and what passes them."""
    columns = {
        f"{dtype.removeprefix('torch ')}, {threads} thr.": found["layers"][dtype]
        for threads, found in data["threads"].items()
        for dtype in DTYPES
    }
    parts = [
        f"GFLOP/s (a multiplication and an addition are two) of each distinct convolution with its bias, addition and "
        f"ReLU done directly: oneDNN, channels_last, reordered weights, {data['batch']} clips, or as many of them as "
        f"the network gives to a layer at once, on each thread at the same time, {timing.REPEATS} times in a row. The "
        "best one is the ceiling of direct convolution on this machine; products with padding are counted, and oneDNN "
        "leaves many of them out, which makes small images look faster. The network's rates count the arithmetic of "
        "direct convolution over the time of trunk and branches together, as they are, with Winograd's algorithm in "
        f"some, and with all convolutions direct. Beside them a product of {SIDE} x {SIDE} matrices.",
        layers_table(columns),
        *(f"{name}: not measured ({c['absent']})." for name, c in columns.items() if "absent" in c),
        winograd.render(data["threads"], data["batch"]),
        int8.render(data["int8"]),
    ]
    return "\n\n".join(parts)


def layers_table(columns: dict[str, Any]) -> str:
    """A row for each layer, and the ceilings below."""
    there = {name: found for name, found in columns.items() if "absent" not in found}
    if not there:
        return "No layer was measured."
    first = next(iter(there.values()))
    rows = [["convolution", "times an embedding", *there]]
    for name in first["seconds"]:
        count = str(first["counts"].get(name, ""))
        rows.append([name, count, *(f"{rates(found)[name]:.0f}" for found in there.values())])
    best = [best_layer(found)[1] for found in there.values()]
    rows.append(["**ceiling: best convolution**", "", *(f"**{rate:.0f}**" for rate in best)])
    rows.append([OWN, "", *(f"{own_rates(found):.0f}" for found in there.values())])
    for name in ("network", DIRECT):
        reached = [f"{100 * rates(f)[name] / rate:.0f}%" for f, rate in zip(there.values(), best, strict=True)]
        rows.append([f"{name}, of the ceiling", "", *reached])
    return table(rows)
