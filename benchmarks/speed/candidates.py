"""Encoders to measure, by name; what cannot be had gives its reason instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mtslvr
from mtslvr.nn.encoder import Encoder

from .baseline import Baseline

Embed = Callable[[Tensor], Tensor]

BASELINE, SUMMED, COMPILED = "baseline", "baseline, kernels summed", "torch.compile float32"
UNDIVIDED = "torch float32, one call"
# Name to the arguments of `mtslvr.load`.
ENGINES: dict[str, dict[str, str]] = {
    "torch float32": {},
    "torch bfloat16": {"dtype": "bfloat16"},
}


class Absent(Exception):
    """A candidate that this installation or machine does not have; the text says why."""


def load(name: str, device: str = "cpu") -> Encoder:
    """One of `ENGINES`.

    Raises:
        Absent: not there.
    """
    arguments: dict[str, Any] = ENGINES[name]
    try:
        encoder = mtslvr.load(device=device, **arguments)
        with torch.inference_mode():
            encoder.embedding(torch.randn(1, 16000, device=device), "concat")
    except (mtslvr.MTSLVRError, ImportError, RuntimeError) as error:
        raise Absent(str(error).splitlines()[0]) from error
    return encoder


def embedder(encoder: Encoder) -> Embed:
    """(B, T) to (B, D) as `mtslvr.embed_windows` does it: rows are the windows of one recording."""

    def embed(waveforms: Tensor) -> Tensor:
        seconds, wave = waveforms.shape[1] / encoder.sample_rate, waveforms.flatten().numpy()
        rows, _ = mtslvr.embed_windows(wave, encoder.sample_rate, encoder=encoder, window_seconds=seconds)
        return torch.from_numpy(rows)

    return embed


def undivided() -> Embed:
    """A call of the encoder with the whole batch, divided by torch itself."""
    encoder = mtslvr.load(device="cpu")
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


def compiled(**how: Any) -> Embed:
    """The encoder through torch.compile, for each size of batch; compiled when called.

    Args:
        how: arguments of torch.compile; by default its own compiler with frozen weights.
    """
    encoder = torch.compile(
        mtslvr.load(device="cpu"), dynamic=False, fullgraph=True, **(how or {"options": {"freezing": True}})
    )
    return lambda waveforms: encoder(waveforms).concat
