"""Normalisation, front end and spectral statistics as ONNX nodes; next: `network`."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..config import EncoderConfig, FrontendConfig, Normalization, Phase
from ..nn.frontend import mel_filterbank
from .graph import Float32, array
from .nodes import Nodes, integers, number


def normalize(nodes: Nodes, waveform: str, config: EncoderConfig) -> str:
    """(B, T) to the same, as `Encoder.normalize`."""
    if config.normalization is Normalization.NONE:
        return waveform
    if config.normalization is Normalization.GLOBAL:
        return nodes.add("Div", nodes.add("Sub", waveform, number(config.global_mean)), number(config.global_std))
    return _standardize(nodes, waveform)


def _standardize(nodes: Nodes, waveform: str) -> str:
    """`encoder.standardize`, its statistics in float64 likewise."""
    double, single = nodes.onnx.TensorProto.DOUBLE, nodes.onnx.TensorProto.FLOAT
    rows = nodes.add("Cast", waveform, to=double)
    mean = nodes.add("ReduceMean", rows, axes=[1], keepdims=1)
    centred = nodes.add("Sub", rows, mean)
    squares = nodes.add("ReduceSum", nodes.add("Mul", centred, centred), integers(1), keepdims=1)
    freedom = nodes.add("Cast", nodes.add("Sub", nodes.size(waveform, 1), integers(1)), to=double)
    deviation = nodes.add("Sqrt", nodes.add("Div", squares, freedom))
    rounding = nodes.add("Mul", nodes.add("Abs", mean), number(2.0**-24, np.float64))
    sounds = nodes.add("Greater", deviation, rounding)
    divisor = nodes.add("Where", sounds, deviation, number(np.inf, np.float64))
    return nodes.add("Cast", nodes.add("Div", centred, divisor), to=single)


def spectrogram(nodes: Nodes, waveform: str, config: FrontendConfig) -> str:
    """Normalised (B, T) to (B, channels, n_mels, frames), as `Frontend`."""
    real, imaginary = _spectrum(nodes, waveform, config)
    filters = array(mel_filterbank(config))
    channels = [_log_power(nodes, real, imaginary, filters, config)]
    if config.channels == 3:
        real, imaginary = (nodes.add("MatMul", part, filters) for part in (real, imaginary))
        channels += _magnitude_and_phase(nodes, real, imaginary, config)
    stacked = nodes.add("Concat", *(nodes.add("Unsqueeze", channel, integers(1)) for channel in channels), axis=1)
    return nodes.add("Transpose", stacked, perm=[0, 1, 3, 2])


def _spectrum(nodes: Nodes, waveform: str, config: FrontendConfig) -> tuple[str, str]:
    """(B, frames, 1 + n_fft // 2): the two parts of the rectangular STFT, as products with its cosines and sines.

    The first sample of each frame is taken off before, and belongs to bin 0 alone, so that digital silence off zero
    gives nothing elsewhere, as in an FFT; a logarithm is steep there.
    """
    bins = 1 + config.n_fft // 2
    frames = _frames(nodes, waveform, config)
    first = nodes.cut(frames, 2, 0, 1)
    both = nodes.add("MatMul", nodes.add("Sub", frames, first), fourier_basis(config.n_fft))
    constant = nodes.add("Mul", first, array(torch.eye(1, bins)[0] * config.n_fft))
    return nodes.add("Add", nodes.cut(both, 2, 0, bins), constant), nodes.cut(both, 2, bins)


def _frames(nodes: Nodes, waveform: str, config: FrontendConfig) -> str:
    """(B, T) to (B, 1 + T // hop_length, n_fft): centred frames, reflected at both ends."""
    half, hop = config.n_fft // 2, integers(config.hop_length)
    padded = nodes.add("Pad", waveform, integers(0, half, 0, half), mode="reflect")
    count = nodes.add("Add", nodes.add("Div", nodes.size(waveform, 1), hop), integers(1))
    order = nodes.add("Range", np.array(0), nodes.add("Squeeze", count, integers(0)), np.array(1))
    starts = nodes.add("Unsqueeze", nodes.add("Mul", order, hop), integers(1))
    return nodes.add("Gather", padded, nodes.add("Add", starts, integers(*range(config.n_fft))), axis=1)


def fourier_basis(n_fft: int) -> Float32:
    """(n_fft, 2 + n_fft): cosines, then negative sines, of bins 0 to n_fft // 2."""
    turns = np.outer(np.arange(n_fft), np.arange(n_fft // 2 + 1)) % n_fft
    angles = 2 * np.pi * turns / n_fft
    half_turns = 2 * turns % n_fft == 0  # whose sines are 0, and in floating point only near it
    sines = np.where(half_turns, 0.0, -np.sin(angles))
    return np.concatenate([np.cos(angles), sines], axis=1).astype(np.float32)


def _log_power(nodes: Nodes, real: str, imaginary: str, filters: Float32, config: FrontendConfig) -> str:
    parts = _hann_filter(nodes, real, 1.0, config), _hann_filter(nodes, imaginary, -1.0, config)
    power = nodes.add("Add", *(nodes.add("Mul", part, part) for part in parts))
    return _decibels(nodes, nodes.add("MatMul", power, filters), config)


def _hann_filter(nodes: Nodes, part: str, mirror: float, config: FrontendConfig) -> str:
    """`frontend.hann_from_rectangular` of one part, (B, frames, bins)."""
    last = config.n_fft // 2
    below = nodes.add("Mul", nodes.cut(part, 2, 1, 2), number(mirror))
    above = nodes.add("Mul", nodes.cut(part, 2, last - 1, last), number(mirror))
    left = nodes.add("Concat", below, nodes.cut(part, 2, 0, last), axis=2)
    right = nodes.add("Concat", nodes.cut(part, 2, 1), above, axis=2)
    neighbours = nodes.add("Mul", nodes.add("Add", left, right), number(0.25))
    return nodes.add("Sub", nodes.add("Mul", part, number(0.5)), neighbours)


def _decibels(nodes: Nodes, value: str, config: FrontendConfig) -> str:
    logarithm = nodes.add("Log", nodes.add("Add", value, number(config.epsilon)))
    return nodes.add("Mul", logarithm, number(10 / math.log(10)))


def _magnitude_and_phase(nodes: Nodes, real: str, imaginary: str, config: FrontendConfig) -> list[str]:
    squares = (nodes.add("Mul", part, part) for part in (real, imaginary))
    magnitude = nodes.add("Sqrt", nodes.add("Add", *squares))
    phase = _angle(nodes, imaginary, real)
    if config.phase is Phase.STABLE:
        certain = nodes.add("Div", magnitude, nodes.add("Add", magnitude, number(config.epsilon)))
        later = nodes.cut(nodes.add("Mul", phase, certain), 1, 1)
        phase = nodes.add("Pad", later, integers(0, 1, 0, 0, 0, 0))  # frame 0 has none
    return [_decibels(nodes, magnitude, config), phase]


def _angle(nodes: Nodes, y: str, x: str) -> str:
    """atan2(y, x), which ONNX lacks: the arctangent of the smaller part by the larger one, then moved and mirrored."""
    zero, quarter, half = number(0), number(math.pi / 2), number(math.pi)
    across, along = nodes.add("Abs", x), nodes.add("Abs", y)
    larger = nodes.add("Max", across, along)
    divisor = nodes.add("Where", nodes.add("Greater", larger, zero), larger, number(1))
    angle = nodes.add("Atan", nodes.add("Div", nodes.add("Min", across, along), divisor))
    steep = nodes.add("Greater", along, across)
    angle = nodes.add("Where", steep, nodes.add("Sub", quarter, angle), angle)
    angle = nodes.add("Where", nodes.add("Less", x, zero), nodes.add("Sub", half, angle), angle)
    return nodes.add("Where", nodes.add("Less", y, zero), nodes.add("Neg", angle), angle)


def statistics(nodes: Nodes, spectrogram: str) -> str:
    """(B, channels, n_mels, frames) to (B, 3 n_mels), as `encoder.spectral_statistics`."""
    bands = nodes.add("Div", nodes.add("Gather", spectrogram, np.array(0), axis=1), number(32))
    mean = nodes.add("ReduceMean", bands, axes=[2], keepdims=1)
    centred = nodes.add("Sub", bands, mean)
    variance = nodes.add("ReduceMean", nodes.add("Mul", centred, centred), axes=[2], keepdims=0)
    steps = nodes.add("Sub", nodes.cut(bands, 2, 1), nodes.cut(bands, 2, 0, -1))
    count = nodes.add("Max", nodes.add("Sub", nodes.size(bands, 2), integers(1)), integers(1))
    total = nodes.add("ReduceSum", nodes.add("Abs", steps), integers(2), keepdims=0)
    change = nodes.add("Div", total, nodes.add("Cast", count, to=nodes.onnx.TensorProto.FLOAT))
    return nodes.add("Concat", nodes.add("Squeeze", mean, integers(2)), nodes.add("Sqrt", variance), change, axis=1)
