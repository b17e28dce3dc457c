"""Clips a second on a GPU, against its memory and its matrix rate, and a whole folder on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from model_card import table

from mtslvr.nn.encoder import Encoder
from mtslvr.nn.resnet import FoldedConv

from . import candidates, folder, timing
from .plan import Plan
from .sounds import clips

TITLE = "GPU"
BATCHES = (32, 128, 512)
ROUNDS = 10
DTYPES = ("torch float32", "torch bfloat16")
COPY_BYTES, SIDE = 1 << 30, 8192


def measure(plan: Plan) -> dict[str, Any]:
    """In processes of their own; nothing without a GPU."""
    if not torch.cuda.is_available():
        return {"absent": "no GPU at hand"}
    batches, rounds = plan.pick((BATCHES, ROUNDS), ((2, 4), 2))
    data = plan.call(time_gpu, plan.most, batches=batches, rounds=rounds, seed=plan.seed)
    files = plan.pick(folder.FILES, 3)
    root = str(plan.work / f"folder-{files}-seed{plan.seed}")
    data["lengths"] = plan.call(folder.make, plan.most, root=root, files=files, seed=plan.seed)
    data["runs"] = plan.call(folder.time_runs, plan.most, root=root, rounds=plan.pick(3, 1), device="cuda")
    return data


def time_gpu(batches: list[int], rounds: int, seed: int) -> dict[str, Any]:
    """Ceilings, cost of a clip, and seconds by batch and dtype; waveforms lie on the GPU."""
    encoders = {name: candidates.load(name, "cuda") for name in DTYPES}
    with torch.inference_mode():
        ceilings = measure_ceilings(rounds)
        costs = {name: cost_of_clip(encoder) for name, encoder in encoders.items()}
        seconds = {}
        for batch in batches:
            waveforms = clips(batch, seed=seed).cuda()
            calls = {
                name: synchronised(lambda e=e, x=waveforms: e.embedding(x, "concat")) for name, e in encoders.items()
            }
            seconds[str(batch)] = timing.alternate(calls, rounds)
    return {"seconds": seconds, "ceilings": ceilings, "costs": costs, "name": torch.cuda.get_device_name()}


def synchronised(call: Callable[[], Any]) -> Callable[[], Any]:
    """`call`, waiting for the GPU."""

    def wait() -> None:
        call()
        torch.cuda.synchronize()

    return wait


def measure_ceilings(rounds: int) -> dict[str, float]:
    """Bytes a second of a large copy (read and written), operations a second of large matrix products."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    square = torch.randn(SIDE, SIDE, device="cuda")
    half = square.bfloat16()
    calls = {
        "copy": synchronised(lambda: target.copy_(source)),
        "torch float32": synchronised(lambda: square @ square),
        "torch bfloat16": synchronised(lambda: half @ half),
    }
    found = {name: min(values) for name, values in timing.alternate(calls, rounds).items()}
    return {name: (2 * COPY_BYTES if name == "copy" else 2 * SIDE**3) / value for name, value in found.items()}


def cost_of_clip(encoder: Encoder) -> dict[str, float]:
    """Operations of the convolutions, and bytes that they read and write (weights left out), for one clip."""
    cost = {"operations": 0.0, "bytes": 0.0}

    def note(module: FoldedConv, args: tuple[Any, ...], kwargs: dict[str, Any], y: torch.Tensor) -> None:
        add = kwargs.get("add")
        tensors = [args[0], y] if add is None else [args[0], y, add]
        cost["operations"] += 2.0 * y.numel() * module.weights[args[1]][0].numel()
        cost["bytes"] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    convolutions = [module for module in encoder.modules() if isinstance(module, FoldedConv)]
    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in convolutions]
    encoder.embedding(clips(1).cuda(), "concat")
    for hook in hooks:
        hook.remove()
    return cost


def render(data: dict[str, Any]) -> str:
    """Ceilings, clips a second, the folder."""
    if "absent" in data:
        return f"Not measured: {data['absent']}."
    ceilings = data["ceilings"]
    rows = [["batch", "dtype", "clips/s", "of the memory ceiling, %", "of the matrix ceiling, %"]]
    for batch, seconds in data["seconds"].items():
        for name, values in seconds.items():
            speed, cost = int(batch) / timing.middle(values), data["costs"][name]
            memory, matrix = speed * cost["bytes"] / ceilings["copy"], speed * cost["operations"] / ceilings[name]
            cells = [timing.rate(values, int(batch), 0), f"{100 * memory:.0f}", f"{100 * matrix:.0f}"]
            rows.append([batch, name.removeprefix("torch "), *cells])
    parts = [
        f"{data['name']}. Waveforms on the GPU to both embeddings. Ceilings measured here: a copy of "
        f"{COPY_BYTES / 2**30:g} GiB moves {ceilings['copy'] / 1e9:,.0f} GB/s; products of {SIDE} x {SIDE} matrices "
        f"reach {ceilings['torch float32'] / 1e12:.1f} TFLOP/s in float32, {ceilings['torch bfloat16'] / 1e12:.1f} in "
        f"bfloat16. Against them stand the convolutions' own operations, and the bytes of their inputs and outputs.",
        table(rows),
        folder_table(data),
        *(f"{name}: not measured ({reason})." for name, reason in data["runs"]["absent"].items()),
    ]
    return "\n\n".join(parts)


def folder_table(data: dict[str, Any]) -> str:
    """Seconds of audio a second through the command."""
    audio = sum(data["lengths"])
    rows = [["whole folder, dtype", "format", "audio s / s"]]
    for engine, found in data["runs"]["engines"].items():
        for suffix, runs in found["runs"].items():
            speed = timing.rate([run["seconds"] for run in runs], audio, 0)
            rows.append([engine.removeprefix("torch "), suffix, speed])
    return table(rows)
