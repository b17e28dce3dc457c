"""Trunk and branches of a folded encoder in OpenVINO, on the CPU; `hub.load(..., engine="openvino")` asks for it."""

from __future__ import annotations

import contextlib
import importlib
import queue
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import POOLED_DIM
from .encoder import Encoder
from .errors import ConfigError
from .graph import Float32, features
from .workers import parts_of, workers_here

# Compiled networks that are kept, each with its own copy of the weights.
_KEPT = 4


class OpenVINOEngine:
    """What `Encoder.engine` calls in place of trunk and branches.

    A network is compiled, in a fifth of a second, at the first call with these tasks, this number of frames and this
    number of threads (torch's); a batch is divided into parts that run side by side, one a thread. Calls of `workers`
    run side by side, too; calls of other threads wait for each other. A copy, or what is read back from a pickle,
    compiles anew.

    Args:
        encoder: folded, with float32 weights, which are shared.
        dtype: float32, or bfloat16 for the products within trunk and branches; features are float32 either way.
    Raises:
        ConfigError: OpenVINO is not installed, the encoder is not folded, or the processor has no bfloat16.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype = torch.float32) -> None:
        if not encoder.folded:
            raise ConfigError("engine='openvino' with fold=False: it runs folded networks only; leave fold=True")
        self.dtype = dtype
        self._trunk, self._branches, self._rows = encoder.trunk, encoder.branches, encoder.config.rows
        self._start()

    def _start(self) -> None:
        self._core = _library().Core()
        if self.dtype is torch.bfloat16 and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            name = self._core.get_property("CPU", "FULL_DEVICE_NAME")
            raise ConfigError(f"dtype='bfloat16': {name} has no bfloat16 instructions; use dtype='float32'")
        self._lock = threading.Lock()
        self._undivided = threading.Lock()
        self._networks: OrderedDict[tuple[Any, ...], queue.SimpleQueue[Any]] = OrderedDict()

    def __call__(self, spectrogram: Tensor, tasks: tuple[int, ...]) -> list[Tensor]:
        """The float32 features of each task, (B, D), from a (B, channels, n_mels, frames) spectrogram."""
        if len(spectrogram) == 0:
            dims = [POOLED_DIM if rows is None else sum(rows.dims) for rows in self._rows]
            return [torch.zeros(0, dims[task], device=spectrogram.device) for task in tasks]
        given = spectrogram.detach().cpu().float().contiguous().numpy()
        threads, workers = torch.get_num_threads(), workers_here()
        if workers:
            joined = self._run([given], tasks, threads * workers, workers)
        else:
            parts = parts_of(len(given), threads)
            with self._undivided:  # two calls, each with a part of the requests, would wait for each other for ever
                joined = self._run(np.array_split(given, parts), tasks, threads, parts)
        return [torch.from_numpy(rows).to(spectrogram.device) for rows in joined]

    def _run(self, given: list[Float32], tasks: tuple[int, ...], threads: int, streams: int) -> list[Float32]:
        idle = self._network(given[0].shape[1:], tasks, threads, streams)
        requests = [idle.get() for _ in given]
        try:
            for request, part in zip(requests, given, strict=True):
                request.start_async([part], share_inputs=True)
            for request in requests:
                request.wait()
            outputs = [[r.get_output_tensor(i).data for r in requests] for i in range(len(tasks))]
            return [np.concatenate(parts) for parts in outputs]
        finally:
            for request in requests:
                idle.put(request)

    def _network(
        self, shape: tuple[int, ...], tasks: tuple[int, ...], threads: int, streams: int
    ) -> queue.SimpleQueue[Any]:
        """Requests, as many as run side by side, of those that are idle."""
        key = shape, tasks, threads, streams
        with self._lock:
            if key not in self._networks:
                compiled = self._compile(*key)
                idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
                for _ in range(streams):
                    idle.put(compiled.create_infer_request())
                self._networks[key] = idle
                while len(self._networks) > _KEPT:
                    self._networks.popitem(last=False)
            self._networks.move_to_end(key)
            return self._networks[key]

    def _compile(self, shape: tuple[int, ...], tasks: tuple[int, ...], threads: int, streams: int) -> Any:
        operations = _Operations()
        # A fixed number of frames is 5 to 10 % faster than a free one; with a fixed batch nothing is gained.
        given = operations.opset.parameter([-1, *shape], np.float32, name="spectrogram")
        outputs = features(self._trunk, self._branches, self._rows, given, tasks, operations)
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.dtype is torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,
        }
        return self._core.compile_model(_library().Model(outputs, [given], "mtslvr"), "CPU", settings)

    def __getstate__(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "_trunk": self._trunk, "_branches": self._branches, "_rows": self._rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


class _Operations:
    """`graph.Operations` in OpenVINO's opset 13."""

    def __init__(self) -> None:
        self.opset = importlib.import_module("openvino.opset13")

    def conv(self, x: Any, weight: Float32, bias: Float32, stride: int, padding: tuple[int, int, int]) -> Any:
        above, below, beside = padding
        strides, pads = [stride, stride], ([above, beside], [below, beside])
        product = self.opset.convolution(x, self.opset.constant(weight), strides, *pads, [1, 1])
        return self.opset.add(product, _channels(bias))

    def add(self, x: Any, y: Any) -> Any:
        return self.opset.add(x, y)

    def relu(self, x: Any) -> Any:
        return self.opset.relu(x)

    def max_pool(self, x: Any) -> Any:
        return self.opset.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)

    def half(self, x: Any, channels: int) -> Any:
        _, in_channels, *sizes = (d.get_length() if d.is_static else -1 for d in x.get_output_partial_shape(0))
        odd = [size % 2 for size in sizes]
        # OpenVINO's own adaptive pooling gives the same and takes ten times as long.
        pooled = self.opset.avg_pool(x, [2, 2], odd, odd, [2 + o for o in odd], True)
        more = np.array([0, channels - in_channels, 0, 0])
        return self.opset.pad(pooled, np.zeros_like(more), more, "constant", np.float32(0))

    def affine(self, x: Any, scale: Float32, shift: Float32) -> Any:
        return self.opset.add(self.opset.multiply(x, _channels(scale)), _channels(shift))

    def mean(self, x: Any) -> Any:
        return self.opset.reduce_mean(x, np.array([2, 3]), False)

    def height(self, x: Any) -> int:
        rows: int = x.get_output_partial_shape(0)[2].get_length()
        return rows

    def rows(self, x: Any, first: int, end: int) -> Any:
        if (first, end) == (0, self.height(x)):
            return x
        return self.opset.slice(x, np.array([first]), np.array([end]), np.array([1]), np.array([2]))

    def maxima(self, x: Any) -> Any:
        return self.opset.reshape(self.opset.reduce_max(x, np.array([3]), False), np.array([0, -1]), True)

    def join(self, x: Any, y: Any) -> Any:
        return self.opset.concat([x, y], 1)


def _channels(values: Float32) -> Float32:
    return values.reshape(1, -1, 1, 1)


def _library() -> Any:
    try:
        with _without_telemetry():
            return importlib.import_module("openvino")
    except ImportError as error:
        raise ConfigError(
            f"engine='openvino': OpenVINO cannot be imported ({error}); pip install 'mtslvr[openvino]', or use "
            "engine='torch'"
        ) from None


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """OpenVINO reports its import to its makers unless this package is absent; so it is, while we import."""
    if "openvino" in sys.modules or "openvino_telemetry" in sys.modules:
        yield
        return
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's own way to say so
    try:
        yield
    finally:
        del sys.modules["openvino_telemetry"]
