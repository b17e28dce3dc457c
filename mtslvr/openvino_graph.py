"""Trunk and branches in OpenVINO's operations, with Winograd's algorithm for 3x3 convolutions; next: `openvino`."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .config import Rows
from .graph import Float32, features
from .resnet import Branches, Trunk
from .winograd import INNER, OUTER, ROWS, SUM_OF_SQUARES, at_points


def network(
    trunk: Trunk,
    branches: Branches,
    rows: Sequence[Rows | None],
    shape: Sequence[int],
    tasks: Sequence[int],
    winograd: Collection[int],
) -> tuple[Any, list[Any]]:
    """Trunk and branches for some tasks.

    Args:
        trunk: of a folded encoder.
        branches: of the same.
        rows: of its config.
        shape: (batch, channels, n_mels, frames) of spectrograms; a batch of -1 is any.
        tasks: which paths.
        winograd: input channels of the convolutions that Winograd's algorithm does, where rows fit its tiles.
    Returns:
        The parameter, and what the heads read, but for the spectral statistics.
    """
    operations = _Operations(winograd)
    given = operations.opset.parameter(list(shape), np.float32, name="spectrogram")
    found = features(trunk, branches, rows, _Image(given), tasks, operations)
    return given, [operations.whole(image) for image in found]


@dataclass
class _Image:
    """A value (B, channels, height, width) in one of two forms, or in both.

    Winograd's algorithm reads and writes rows by fours, in `phases`: rows 0, 4, 8 and so on, rows 1, 5, 9 and so on,
    and so to the fourth. A stage of the network stays in that form, which saves taking images apart and joining them.
    """

    whole: Any = None
    phases: list[Any] | None = None


class _Operations:
    """`graph.Operations` in OpenVINO's opset 13."""

    def __init__(self, winograd: Collection[int]) -> None:
        self.opset = importlib.import_module("openvino.opset13")
        self._opset1 = importlib.import_module("openvino.opset1")  # later ones' max_pool gives places, too
        self._winograd = winograd
        self._constants: dict[Any, Any] = {}

    def conv(self, x: _Image, weight: Float32, bias: Float32, stride: int, padding: tuple[int, int, int]) -> _Image:
        if weight.shape[1] in self._winograd and weight.shape[2:] == (3, 3):
            added, whole = self.opset.constant(_channels(bias)), padding == (1, 1, 1)
            if stride == 2 and whole and self._halves(x):
                return self._joined_pairs([self.opset.add(y, added) for y in self._strided(x, weight)])
            if stride == 1 and whole and self.height(x) % ROWS == 0:
                return _Image(phases=[self.opset.add(y, added) for y in self._by_winograd(x, weight)])
            if stride == 1 and padding == (0, 0, 1) and x.phases is not None and self.height(x) == ROWS:
                middle = self._by_winograd(x, weight)[1:3]  # what only the other two need is never computed
                return _Image(self.opset.concat([self.opset.add(y, added) for y in middle], 2))
        above, below, beside = padding
        strides, pads = [stride, stride], ([above, beside], [below, beside])
        product = self.opset.convolution(self.whole(x), self.opset.constant(weight), strides, *pads, [1, 1])
        return _Image(self.opset.add(product, _channels(bias)))

    def add(self, x: _Image, y: _Image) -> _Image:
        if x.phases is None:
            return _Image(self.opset.add(x.whole, self.whole(y)))
        return _Image(phases=[self.opset.add(*pair) for pair in zip(x.phases, self.phases(y), strict=True)])

    def relu(self, x: _Image) -> _Image:
        if x.phases is None:
            return _Image(self.opset.relu(x.whole))
        return _Image(phases=[self.opset.relu(phase) for phase in x.phases])

    def max_pool(self, x: _Image) -> _Image:
        return _Image(self._opset1.max_pool(self.whole(x), [2, 2], [1, 1], [1, 1], [3, 3]))

    def half(self, x: _Image, channels: int) -> _Image:
        if self._halves(x):
            first, second, third, fourth = self.phases(x)
            pairs = [self._times(self.opset.add(*pair), 0.5) for pair in ((first, second), (third, fourth))]
            return self._joined_pairs([self._half(pair, channels, rows=1) for pair in pairs])
        return _Image(self._half(self.whole(x), channels, rows=2))

    def _half(self, x: Any, channels: int, rows: int) -> Any:
        _, in_channels, *sizes = _shape(x)
        odd = [0 if rows == 1 else sizes[0] % 2, sizes[1] % 2]
        kernel = [rows + odd[0], 2 + odd[1]]
        # OpenVINO's own adaptive pooling gives the same and takes ten times as long.
        pooled = self.opset.avg_pool(x, [rows, 2], odd, odd, kernel, True)
        more = np.array([0, channels - in_channels, 0, 0])
        return self.opset.pad(pooled, np.zeros_like(more), more, "constant", np.float32(0))

    def _halves(self, x: _Image) -> bool:
        """Whether half of the rows can be had from the phases, as phases."""
        return x.phases is not None and self.height(x) % (2 * ROWS) == 0

    def _strided(self, x: _Image, weight: Float32) -> list[Any]:
        """Even and odd rows of a convolution with stride 2.

        The kernel's outer rows read odd rows of the image: F(2, 2), five products of rows in place of six.
        """
        first, second, third, fourth = self.phases(x)
        above, middle, below = (np.ascontiguousarray(weight[:, :, row : row + 1]) for row in range(3))
        both = self._along(second, above + below, 2)
        upper = self._along(self.opset.subtract(self._moved(fourth, 1), second), above, 2)
        lower = self._along(self.opset.subtract(fourth, second), below, 2)
        return [
            self.opset.add(self.opset.add(self._along(first, middle, 2), upper), both),
            self.opset.add(self.opset.add(self._along(third, middle, 2), lower), both),
        ]

    def _joined_pairs(self, rows: list[Any]) -> _Image:
        """Phases from even and odd rows."""
        count = _shape(rows[0])[2]
        return _Image(phases=[self._slice(rows[j], i, count, 2) for i in (0, 1) for j in (0, 1)])

    def affine(self, x: _Image, scale: Float32, shift: Float32) -> _Image:
        return _Image(self.opset.add(self.opset.multiply(self.whole(x), _channels(scale)), _channels(shift)))

    def mean(self, x: _Image) -> _Image:
        return _Image(self.opset.reduce_mean(self.whole(x), np.array([2, 3]), False))

    def height(self, x: _Image) -> int:
        return _shape(x.whole)[2] if x.phases is None else ROWS * _shape(x.phases[0])[2]

    def rows(self, x: _Image, first: int, end: int) -> _Image:
        if (first, end) == (0, self.height(x)):
            return x
        if x.phases is not None and self.height(x) == ROWS:
            return _Image(self.opset.concat(x.phases[first:end], 2))
        return _Image(self._slice(self.whole(x), first, end))

    def maxima(self, x: _Image) -> _Image:
        over_time = self.opset.reduce_max(self.whole(x), np.array([3]), False)
        return _Image(self.opset.reshape(over_time, np.array([0, -1]), True))

    def join(self, x: _Image, y: _Image) -> _Image:
        return _Image(self.opset.concat([self.whole(x), self.whole(y)], 1))

    def whole(self, x: _Image) -> Any:
        """In one piece."""
        if x.whole is None:
            assert x.phases is not None
            tiles = self.height(x) // ROWS
            rows = [self._slice(phase, tile, tile + 1) for tile in range(tiles) for phase in x.phases]
            x.whole = self.opset.concat(x.phases if tiles == 1 else rows, 2)
        return x.whole

    def phases(self, x: _Image) -> list[Any]:
        """In four phases."""
        if x.phases is None:
            x.phases = [self._slice(x.whole, first, self.height(x), ROWS) for first in range(ROWS)]
        return x.phases

    def _by_winograd(self, x: _Image, weight: Float32) -> list[Any]:
        kernels = at_points(torch.from_numpy(weight)).to(torch.float32).numpy()
        return self._from_points([self._along(*pair, 1) for pair in zip(self._to_points(x), kernels, strict=True)])

    def _along(self, x: Any, kernel: Float32, stride: int) -> Any:
        """Convolution of each row with a (C_out, C_in, 1, 3) kernel."""
        return self.opset.convolution(x, self.opset.constant(kernel), [1, stride], [0, 1], [0, 1], [1, 1])

    def _to_points(self, x: _Image) -> list[Any]:
        first, second, third, fourth = self.phases(x)
        zero, infinity = self._plus(fourth, second, -SUM_OF_SQUARES), self._plus(first, third, -SUM_OF_SQUARES)
        if self.height(x) > ROWS:
            zero = self.opset.add(zero, self._moved(fourth, 1))
            infinity = self.opset.add(infinity, self._moved(first, -1))
        finite = []
        for point, other in ((OUTER, INNER), (INNER, OUTER)):
            even = self._plus(fourth, second, -(other**2))
            odd = self._times(self._plus(third, first, -(other**2)), point)
            finite += [self.opset.add(even, odd), self.opset.subtract(even, odd)]
        return [zero, *finite, infinity]

    def _from_points(self, points: list[Any]) -> list[Any]:
        zero, outer, minus_outer, inner, minus_inner, infinity = points
        outer_even, outer_odd = self.opset.add(outer, minus_outer), self.opset.subtract(outer, minus_outer)
        inner_even, inner_odd = self.opset.add(inner, minus_inner), self.opset.subtract(inner, minus_inner)

        def weighted(of_outer: Any, of_inner: Any, power: int) -> Any:
            return self._plus(self._times(of_inner, INNER**power), of_outer, OUTER**power)

        return [
            self.opset.add(self.opset.add(zero, outer_even), inner_even),
            weighted(outer_odd, inner_odd, 1),
            weighted(outer_even, inner_even, 2),
            self.opset.add(weighted(outer_odd, inner_odd, 3), infinity),
        ]

    def _times(self, x: Any, factor: float) -> Any:
        return self.opset.multiply(x, self._constant(factor))

    def _plus(self, x: Any, y: Any, factor: float) -> Any:
        return self.opset.add(self._times(y, factor), x)

    def _moved(self, phase: Any, by: int) -> Any:
        """Down by one row (1) or up (-1), zeros where nothing comes from."""
        rows = _shape(phase)[2]
        kept = self._slice(phase, max(0, -by), rows - max(0, by))
        pads = [self._constant((0, 0, max(0, towards), 0)) for towards in (by, -by)]
        return self.opset.pad(kept, *pads, "constant", self._constant(0.0))

    def _slice(self, x: Any, first: int, end: int, step: int = 1) -> Any:
        return self.opset.slice(x, *(self._constant((place,)) for place in (first, end, step, 2)))

    def _constant(self, value: float | tuple[int, ...]) -> Any:
        """The same one wherever its value is asked for: compiling takes longer the more of them there are."""
        if value not in self._constants:
            array = np.array(value) if isinstance(value, tuple) else np.float32(value)
            self._constants[value] = self.opset.constant(array)
        return self._constants[value]


def _shape(x: Any) -> list[int]:
    return [d.get_length() if d.is_static else -1 for d in x.get_output_partial_shape(0)]


def _channels(values: Float32) -> Float32:
    return values.reshape(1, -1, 1, 1)
