"""Encoders to measure, by name; what cannot be had gives its reason instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mtslvr
from mtslvr.adapters import FoldedConv
from mtslvr.encoder import Encoder

from .baseline import Baseline

Embed = Callable[[Tensor], Tensor]

BASELINE, SUMMED, COMPILED = "baseline", "baseline, kernels summed", "torch.compile float32"
# Name to the arguments of `mtslvr.load`.
ENGINES: dict[str, dict[str, str]] = {
    "torch float32": {},
    "torch bfloat16": {"dtype": "bfloat16"},
    "openvino float32": {"engine": "openvino"},
    "openvino bfloat16": {"engine": "openvino", "dtype": "bfloat16"},
}


class Absent(Exception):
    """A candidate that this installation or machine does not have; the text says why."""


def load(name: str, device: str = "cpu") -> Encoder:
    """One of `ENGINES`.

    Raises:
        Absent: not there.
    """
    arguments: dict[str, Any] = ENGINES[name]
    missing = [key for key in arguments if key not in inspect.signature(mtslvr.load).parameters]
    if missing:
        raise Absent(f"mtslvr.load of this version has no {missing[0]}=")
    try:
        encoder = mtslvr.load(device=device, **arguments)
        with torch.inference_mode():
            encoder.embedding(torch.randn(1, 16000, device=device), "concat")
    except (mtslvr.MTSLVRError, ImportError, RuntimeError) as error:
        raise Absent(str(error).splitlines()[0]) from error
    return encoder


def embedder(encoder: Encoder) -> Embed:
    """(B, T) to (B, D)."""
    return lambda waveforms: encoder.embedding(waveforms, "concat")


def available(names: list[str]) -> tuple[dict[str, Embed], dict[str, str]]:
    """Those that are there, and the reasons of the others."""
    found: dict[str, Embed] = {}
    absent: dict[str, str] = {}
    for name in names:
        try:
            found[name] = embedder(load(name))
        except Absent as error:
            absent[name] = str(error)
    return found, absent


def baselines() -> dict[str, Embed]:
    """Both forms of the unfolded double pass."""
    return {
        BASELINE: Baseline(mtslvr.load(device="cpu", fold=False), apart=True),
        SUMMED: Baseline(mtslvr.load(device="cpu", fold=False)),
    }


class PlainConv(nn.Module):
    """A folded convolution in operations that torch.compile follows; ours are fused already, out of its sight."""

    def __init__(self, folded: FoldedConv) -> None:
        super().__init__()
        self.weights, self.biases = folded.weights, folded.biases
        self.stride, self.padding = folded.stride, folded.padding

    def forward(self, x: Tensor, task: int, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """What `FoldedConv` gives."""
        y = F.conv2d(x, self.weights[task], self.biases[task], self.stride, self.padding)
        y = y if add is None else y + add
        return F.relu(y) if relu else y


def compiled() -> Embed:
    """Trunk and branches through torch.compile with frozen weights, for each size of batch; compiled when called."""
    encoder = mtslvr.load(device="cpu")
    for module in [*encoder.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, FoldedConv):
                setattr(module, name, PlainConv(child))

    def pooled(spectrogram: Tensor, tasks: tuple[int, ...]) -> list[Tensor]:
        shared = encoder.shared(spectrogram)
        return [encoder.read(shared, task) for task in tasks]

    encoder.engine = torch.compile(pooled, dynamic=False, fullgraph=True, options={"freezing": True})
    return embedder(encoder)
