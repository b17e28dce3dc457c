"""An ONNX graph, written node by node; next: `frontend`, `network`."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

OPSET = 17


class Nodes:
    """Nodes and constants so far. Values go by their names; each node and its output have the same."""

    def __init__(self) -> None:
        self.onnx = library()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, *inputs: str | npt.NDArray[Any], **attributes: Any) -> str:
        """Append a node of one output.

        Args:
            kind: ONNX operator.
            inputs: names of values, or arrays, which become constants.
            attributes: of the operator.
        Returns:
            The name of its output.
        """
        name = f"{kind.lower()}_{len(self.nodes)}"
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(self.onnx.helper.make_node(kind, names, [name], name=name, **attributes))
        return name

    def name(self, value: str, name: str) -> None:
        """Give a value another name, as for an output."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name], name=name))

    def constant(self, values: npt.NDArray[Any]) -> str:
        """The name of a new constant."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def size(self, value: str, axis: int) -> str:
        """How many there are along an axis, (1,) int64."""
        return self.add("Gather", self.add("Shape", value), integers(axis))

    def cut(self, value: str, axis: int, start: int, end: int = np.iinfo(np.int64).max) -> str:
        """`value` from `start` to `end` along one axis."""
        return self.add("Slice", value, integers(start), integers(end), integers(axis))


def integers(*values: int) -> npt.NDArray[np.int64]:
    """A vector of int64."""
    return np.array(values, np.int64)


def number(value: float, like: type[np.floating[Any]] = np.float32) -> npt.NDArray[Any]:
    """A scalar."""
    return np.array(value, like)


def library() -> Any:
    """The onnx package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ConfigError(f"onnx cannot be imported ({error}); pip install 'mtslvr[onnx]'") from None
