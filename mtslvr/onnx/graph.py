"""Trunk and branches of a folded encoder, step by step in another library's operations; next: `onnx`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..config import Rows
from ..errors import ConfigError
from ..nn.adapters import FoldedConv, norm_affine
from ..nn.resnet import Block, Branches, Trunk

Float32 = npt.NDArray[np.float32]
T = TypeVar("T")


class Operations(Protocol[T]):
    """What the network is made of, on values T that stand for (B, channels, height, width)."""

    def conv(self, x: T, weight: Float32, bias: Float32, stride: int, padding: tuple[int, int, int]) -> T:
        """Convolution with a (C_out, C_in, k, k) kernel, plus a (C_out,) bias; padding above, below, at either side."""

    def add(self, x: T, y: T) -> T:
        """Their sum; the shapes are equal."""

    def relu(self, x: T) -> T:
        """What is below zero becomes zero."""

    def max_pool(self, x: T) -> T:
        """Maxima over 3x3 with stride 2, padded by 1."""

    def half(self, x: T, channels: int) -> T:
        """Height and width averaged to their half, rounded up, and zero channels appended to make `channels`.

        An axis of even size is averaged over 2 with stride 2. One of odd size over 3 with stride 2, padded by 1 that
        does not count: these are the windows of adaptive average pooling from 2 m - 1 to m.
        """

    def affine(self, x: T, scale: Float32, shift: Float32) -> T:
        """Each channel times its scale plus its shift, (C,) each."""

    def mean(self, x: T) -> T:
        """(B, channels): means over height and width."""

    def height(self, x: T) -> int:
        """How many rows."""

    def rows(self, x: T, first: int, end: int) -> T:
        """(B, channels, end - first, width): some of its rows."""

    def maxima(self, x: T) -> T:
        """(B, channels * height): maxima over width, the rows of a channel side by side."""

    def join(self, x: T, y: T) -> T:
        """(B, n) and (B, m) to (B, n + m)."""


def features(
    trunk: Trunk,
    branches: Branches,
    rows: Sequence[Rows | None],
    x: T,
    tasks: Sequence[int],
    operations: Operations[T],
) -> list[T]:
    """What the heads of some tasks read, but for the spectral statistics; the trunk is run once.

    Args:
        trunk: of a folded encoder.
        branches: of the same.
        rows: of its config.
        x: the spectrogram, (B, channels, n_mels, frames).
        tasks: which paths.
        operations: of the library that the graph is for.
    """
    if any(path is not None and path.means for path in rows):
        raise ConfigError("rows.means: heads that read means of rows run in torch alone")
    x = operations.max_pool(operations.relu(_conv(trunk.stem, x, 0, operations)))
    for block in trunk.layer1:
        x = _block(block, x, 0, operations)
    return [_branch(branches, x, task, rows[task], operations) for task in tasks]


def _branch(branches: Branches, x: T, task: int, rows: Rows | None, operations: Operations[T]) -> T:
    for blocks in (branches.layer2, branches.layer3):
        for block in blocks:
            x = _block(block, x, task, operations)
    third, maxima = x, []
    if rows is not None and rows.dims[0]:
        maxima.append(operations.maxima(operations.rows(third, *rows.layer3)))
    if rows is None or rows.dims[1]:
        first, last = branches.layer4
        x = _block(last, _block(first, x, task, operations), task, operations, None if rows is None else rows.layer4)
        if len(branches.end_norms):
            norm = branches.end_norms[task]
            assert isinstance(norm, nn.BatchNorm2d)
            scale, shift = norm_affine(norm)
            x = operations.relu(operations.affine(x, array(scale), array(shift)))
        if rows is None:
            return operations.mean(x)
        maxima.append(operations.maxima(x))
    return maxima[0] if len(maxima) == 1 else operations.join(*maxima)


def _block(block: nn.Module, x: T, task: int, operations: Operations[T], rows: tuple[int, int] | None = None) -> T:
    assert isinstance(block, Block)
    y = operations.relu(_conv(block.conv1, x, task, operations))
    shortcut = _shortcut(block, x, operations)
    if rows is not None:
        shortcut = operations.rows(shortcut, *rows)
    return operations.relu(operations.add(_conv(block.conv2, y, task, operations, rows), shortcut))


def _shortcut(block: Block, x: T, operations: Operations[T]) -> T:
    if block.shortcut is not None:
        return _conv(block.shortcut, x, 0, operations)
    assert isinstance(block.conv1, FoldedConv)
    channels, in_channels = block.conv1.weights[0].shape[:2]
    return x if channels == in_channels else operations.half(x, channels)


def _conv(conv: nn.Module, x: T, task: int, operations: Operations[T], rows: tuple[int, int] | None = None) -> T:
    assert isinstance(conv, FoldedConv)
    weight, bias, padding = array(conv.weights[task]), array(conv.biases[task]), int(conv.padding[0])
    above = below = padding
    if rows is not None:
        (first, end), height = rows, operations.height(x)
        above, below = max(0, padding - first), max(0, end + padding - height)
        x = operations.rows(x, max(0, first - padding), min(height, end + padding))
    return operations.conv(x, weight, bias, int(conv.stride[0]), (above, below, padding))


def array(tensor: Tensor) -> Float32:
    """The same numbers in float32, laid out row by row."""
    return np.ascontiguousarray(tensor.detach().cpu().to(torch.float32).numpy())
