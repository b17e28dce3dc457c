"""Winograd's F(2x2, 3x3) as matrix products in torch, against direct convolution; tried once.

Source:
    Lavin, Gray 2016, "Fast algorithms for convolutional neural networks", arXiv 1509.09308.
"""

from __future__ import annotations

from typing import Any

import torch
from model_card import table
from torch import Tensor
from torch.nn import functional as F

from mtslvr.adapters import FoldedConv

from . import candidates, timing
from .sounds import clips

INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))


def transform_kernel(weight: Tensor) -> Tensor:
    """(C_out, C_in, 3, 3) to (16, C_in, C_out)."""
    g = weight.new_tensor(KERNEL)
    return torch.einsum("ai,ocij,bj->abco", g, weight, g).reshape(16, weight.shape[1], weight.shape[0]).contiguous()


def combine(tiles: Tensor, matrix: tuple[tuple[float, ...], ...], dim: int) -> Tensor:
    """Rows of `matrix` applied along `dim`, by additions: its entries are 1, 0 and -1."""
    parts = tiles.unbind(dim)
    rows = []
    for row in matrix:
        total = None
        for sign, part in zip(row, parts, strict=True):
            if sign:
                term = part if sign > 0 else -part
                total = term if total is None else total + term
        rows.append(total)
    return torch.stack(rows, dim)


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """`F.conv2d(x, weight, padding=1)` for even H and W.

    Args:
        x: (B, C_in, H, W).
        kernel: from `transform_kernel`.
    Returns:
        (B, C_out, H, W), channels last in memory.
    """
    batch, channels, height, width = x.shape
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    tiles = padded.unfold(1, 4, 2).unfold(2, 4, 2).permute(4, 5, 0, 1, 2, 3)  # (4, 4, B, H / 2, W / 2, C_in)
    tiles = combine(combine(tiles, INPUT, 0), INPUT, 1)
    product = torch.bmm(tiles.reshape(16, -1, channels), kernel)
    product = product.view(4, 4, batch, height // 2, width // 2, -1)
    y = combine(combine(product, OUTPUT, 0), OUTPUT, 1)  # (2, 2, B, H / 2, W / 2, C_out)
    return y.permute(2, 3, 0, 4, 1, 5).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def time_layers(batch: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Seconds of both ways, and how far apart they are, for one layer of the trunk and of each wide branch stage."""
    encoder = candidates.load("torch float32")
    found = []
    with torch.inference_mode():
        for module in (
            encoder.trunk.layer1[0].conv1, encoder.branches.layer2[1].conv1, encoder.branches.layer3[1].conv1
        ):  # fmt: skip
            assert isinstance(module, FoldedConv)
            found.append(time_layer(module, encoder, clips(batch, seed=seed), rounds))
    return found


def time_layer(module: FoldedConv, encoder: Any, waveforms: Tensor, rounds: int) -> dict[str, Any]:
    """One layer on the input that it gets in the network, cut to even sizes."""
    inputs: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    encoder.embedding(waveforms, "concat")
    hook.remove()
    x = inputs[0][:, :, : inputs[0].shape[2] // 2 * 2, : inputs[0].shape[3] // 2 * 2]
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = module.weights[0], module.biases[0][:, None, None]
    kernel = transform_kernel(weight)
    calls = {
        "direct": lambda: module(x, 0, relu=True),
        "winograd": lambda: F.relu(convolve(x, kernel) + bias, inplace=True),
    }
    wanted, got = calls["direct"](), calls["winograd"]()
    error = float((got - wanted).abs().max() / wanted.abs().max())
    name = f"{weight.shape[1]} to {weight.shape[0]}, on {x.shape[2]}x{x.shape[3]}"
    return {"layer": name, "error": error, "seconds": timing.alternate(calls, rounds)}


def render(data: dict[str, Any]) -> str:
    """A row for each layer and number of threads."""
    rows = [["3x3 convolution", "threads", "speed, times direct", "largest error / largest value"]]
    for threads, layers in data.items():
        for found in layers:
            ratio = timing.ratios(found["seconds"]["direct"], found["seconds"]["winograd"])
            rows.append([found["layer"], threads, timing.spread(ratio), f"{found['error']:.1e}"])
    return (
        "**Winograd, tried once**: F(2x2, 3x3), 2.25 times fewer multiplications, with its transforms as torch "
        "additions and one batched matrix product, float32, against the direct convolution of the same layer in "
        f"alternation; bias and ReLU on both sides.\n\n{table(rows)}"
    )
