"""Trunk, branches and heads as ONNX nodes; next: `model`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..config import Layer
from ..nn.encoder import Encoder
from .frontend import statistics
from .graph import Float32, array, features
from .nodes import Nodes, integers


@dataclass(frozen=True)
class Value:
    """A value (B, channels, height, width) by its name; the width is None where it is free."""

    name: str
    channels: int
    height: int
    width: int | None


def embeddings(nodes: Nodes, encoder: Encoder, spectrogram: Value, layer: Layer) -> tuple[str, str]:
    """Both embeddings of a spectrogram, as `Encoder.encode_spectrogram`; one and the same where there is one output."""
    config = encoder.config
    tasks = range(config.tasks)
    found = features(encoder.trunk, encoder.branches, config.rows, spectrogram, tasks, _Operations(nodes))
    pooled = [value.name for value in found]
    if config.spectral_statistics:
        pooled[-1] = nodes.add("Concat", pooled[-1], statistics(nodes, spectrogram.name), axis=1)
    if layer is Layer.POOLED:
        return pooled[0], pooled[-1]
    invariant = _head(nodes, encoder, 0, pooled[0])
    return invariant, invariant if config.outputs == 1 else _head(nodes, encoder, -1, pooled[-1])


def _head(nodes: Nodes, encoder: Encoder, index: int, pooled: str) -> str:
    linear = encoder.heads[index]
    assert isinstance(linear, nn.Linear)
    return nodes.add("Gemm", pooled, array(linear.weight), array(linear.bias), transB=1)


class _Operations:
    """`graph.Operations` as ONNX nodes."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes

    def conv(self, x: Value, weight: Float32, bias: Float32, stride: int, padding: tuple[int, int, int]) -> Value:
        channels, _, kernel, _ = weight.shape
        above, below, beside = padding
        name = self.nodes.add("Conv", x.name, weight, bias, strides=[stride] * 2, pads=[above, beside, below, beside])
        return _strided(name, x, channels, kernel, stride, padding)

    def add(self, x: Value, y: Value) -> Value:
        return self._like(x, "Add", y.name)

    def relu(self, x: Value) -> Value:
        return self._like(x, "Relu")

    def max_pool(self, x: Value) -> Value:
        name = self.nodes.add("MaxPool", x.name, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        return _strided(name, x, x.channels, 3, 2, (1, 1, 1))

    def half(self, x: Value, channels: int) -> Value:
        pooled = self._average(x) if x.width is not None else self._average_any_width(x)
        name = self.nodes.add("Pad", pooled, integers(0, 0, 0, 0, 0, channels - x.channels, 0, 0))
        return Value(name, channels, (x.height + 1) // 2, None if x.width is None else (x.width + 1) // 2)

    def _average(self, x: Value) -> str:
        assert x.width is not None
        odd = [x.height % 2, x.width % 2]
        kernel = [2 + o for o in odd]
        return self.nodes.add("AveragePool", x.name, kernel_shape=kernel, strides=[2, 2], pads=odd * 2)

    def _average_any_width(self, x: Value) -> str:
        """The average for an odd width or for an even one, whichever it is when the graph runs."""
        odd = self.nodes.add("Mod", self.nodes.size(x.name, 3), integers(2))
        branches = {
            "then_branch": self._subgraph("odd", Value(x.name, x.channels, x.height, 1)),
            "else_branch": self._subgraph("even", Value(x.name, x.channels, x.height, 2)),
        }
        return self.nodes.add("If", self.nodes.add("Cast", odd, to=self.nodes.onnx.TensorProto.BOOL), **branches)

    def _subgraph(self, name: str, x: Value) -> object:
        inner = Nodes()
        output = _Operations(inner)._average(x)
        helper, kind = inner.onnx.helper, inner.onnx.TensorProto.FLOAT
        return helper.make_graph(inner.nodes, name, [], [helper.make_tensor_value_info(output, kind, None)])

    def affine(self, x: Value, scale: Float32, shift: Float32) -> Value:
        return self._like(self._like(x, "Mul", scale.reshape(-1, 1, 1)), "Add", shift.reshape(-1, 1, 1))

    def mean(self, x: Value) -> Value:
        name = self.nodes.add("ReduceMean", x.name, axes=[2, 3], keepdims=0)
        return Value(name, x.channels, 1, 1)

    def height(self, x: Value) -> int:
        return x.height

    def rows(self, x: Value, first: int, end: int) -> Value:
        if (first, end) == (0, x.height):
            return x
        return Value(self.nodes.cut(x.name, 2, first, end), x.channels, end - first, x.width)

    def maxima(self, x: Value) -> Value:
        over_time = self.nodes.add("ReduceMax", x.name, axes=[3], keepdims=0)
        return Value(self.nodes.add("Flatten", over_time, axis=1), x.channels * x.height, 1, 1)

    def join(self, x: Value, y: Value) -> Value:
        return Value(self.nodes.add("Concat", x.name, y.name, axis=1), x.channels + y.channels, 1, 1)

    def _like(self, x: Value, kind: str, *others: str | Float32) -> Value:
        return Value(self.nodes.add(kind, x.name, *others), x.channels, x.height, x.width)


def _strided(name: str, x: Value, channels: int, kernel: int, stride: int, padding: tuple[int, int, int]) -> Value:
    def after(size: int, added: int) -> int:
        return (size + added - kernel) // stride + 1

    above, below, beside = padding
    width = None if x.width is None else after(x.width, 2 * beside)
    return Value(name, channels, after(x.height, above + below), width)
