"""Trunk and branches of a folded encoder in OpenVINO, on the CPU; `hub.load(..., engine="openvino")` asks for it."""

from __future__ import annotations

import contextlib
import importlib
import queue
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import openvino_graph
from .config import POOLED_DIM
from .encoder import Encoder
from .errors import ConfigError
from .graph import Float32
from .workers import parts_of, threads_here, workers_here

# Compiled networks that are kept, each with its own copy of the weights.
_KEPT = 4
# Input channels of the convolutions that Winograd's algorithm speeds up.
WINOGRAD_CHANNELS = (64, 128, 256, 512)
# Rows of a network for windows of the encoder's own length: with more a row takes as long, with fewer longer.
_ROWS = 4
# Rows of zeros that are computed to fill those networks, before one for a single row is compiled.
_FILLED = 32


class OpenVINOEngine:
    """What `Encoder.engine` calls in place of trunk and branches.

    Most windows have the encoder's own length: their networks, for one row or for four, use Winograd's algorithm, which
    takes a second to compile and a sixth to a quarter off the time of each window. A window of another length has a
    network of direct convolutions, compiled in a fifth of a second, for any number of rows. Each is compiled at the
    first call with these tasks, this number of frames and this number of threads (torch's); parts of a batch run side
    by side, one a thread, and so do the two paths of a single window. Calls of `workers` run side by side, too; calls
    of other threads wait for each other. A copy, or what is read back from a pickle, compiles anew.

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
        self._window = encoder.config.frontend.n_mels, encoder.config.window_frames
        self._start()

    def _start(self) -> None:
        self._core = _library().Core()
        if self.dtype is torch.bfloat16 and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            name = self._core.get_property("CPU", "FULL_DEVICE_NAME")
            raise ConfigError(f"dtype='bfloat16': {name} has no bfloat16 instructions; use dtype='float32'")
        self._lock = threading.Lock()
        self._undivided = threading.Lock()
        self._networks: OrderedDict[_Network, queue.SimpleQueue[Any]] = OrderedDict()
        self._filled: Counter[tuple[Any, ...]] = Counter()

    def __call__(self, spectrogram: Tensor, tasks: tuple[int, ...]) -> list[Tensor]:
        """The float32 features of each task, (B, D), from a (B, channels, n_mels, frames) spectrogram."""
        if len(spectrogram) == 0:
            dims = [POOLED_DIM if rows is None else sum(rows.dims) for rows in self._rows]
            return [torch.zeros(0, dims[task], device=spectrogram.device) for task in tasks]
        given = spectrogram.detach().cpu().float().contiguous().numpy()
        threads, workers = threads_here(), workers_here()
        if workers:
            found = self._found(given, _Network(None, given.shape[1:], tasks, threads * workers, workers), 1)
        else:
            with self._undivided:  # two calls, each with a part of the requests, would wait for each other for ever
                found = self._by_all_threads(given, tasks, threads)
        return [torch.from_numpy(rows[: len(given)]).to(spectrogram.device) for rows in found]

    def _by_all_threads(self, given: Float32, tasks: tuple[int, ...], threads: int) -> list[Float32]:
        count = parts_of(len(given), threads)
        network = _Network(None, given.shape[1:], tasks, threads, count)
        if len(given) > 1 or len(tasks) > threads or not self._is_window(given.shape):
            return self._found(given, network, count)
        filled = self._filled_up(given, network)
        if filled:
            return self._outputs([filled])[0]
        # Two threads gain less within a path than with a path for each.
        networks = [replace(network, batch=1, tasks=(task,), threads=threads // len(tasks)) for task in tasks]
        return [rows for [rows] in self._outputs([(network, given) for network in networks])]

    def _found(self, given: Float32, network: _Network, at_once: int) -> list[Float32]:
        """The features of each task, by this network or, for windows, by those of its kind with a number of rows."""
        parts = self._parts(given, network, at_once)
        outputs = [
            found for first in range(0, len(parts), at_once) for found in self._outputs(parts[first : first + at_once])
        ]
        return [np.concatenate(rows) for rows in zip(*outputs, strict=True)]

    def _is_window(self, shape: tuple[int, ...]) -> bool:
        return shape[2:] == self._window

    def _parts(self, given: Float32, network: _Network, count: int) -> list[_Part]:
        """What each request gets; in the last one there may be zeros after the rows that are given."""
        if not self._is_window(given.shape):
            return [(network, part) for part in np.array_split(given, count)]
        single, several = replace(network, batch=1), replace(network, batch=_ROWS)
        whole = len(given) - len(given) % _ROWS
        parts = [(several, given[first : first + _ROWS]) for first in range(0, whole, _ROWS)]
        rest = given[whole:]
        if len(rest):
            filled = None if single in self._networks else self._filled_up(rest, several, begun=bool(parts))
            parts += [filled] if filled else [(single, row[None]) for row in rest]
        return parts

    def _filled_up(self, rows: Float32, like: _Network, begun: bool = False) -> _Part | None:
        """Fewer than four rows for a network that there is already, or is going to be; None where that does not pay."""
        with self._lock:
            kinds = (_ROWS, like.shape, like.tasks)
            known = [network for network in self._networks if (network.batch, network.shape, network.tasks) == kinds]
            missing = _ROWS - len(rows)
            if not (known or begun) or self._filled[kinds] + missing > _FILLED:
                return None
            self._filled[kinds] += missing
        network = like if begun or like in known else known[-1]
        return network, np.pad(rows, ((0, missing), (0, 0), (0, 0), (0, 0)))

    def _outputs(self, parts: list[_Part]) -> list[list[Float32]]:
        """Of each part; they run side by side."""
        queues = [self._network(network) for network, _ in parts]
        requests = [idle.get() for idle in queues]
        try:
            for request, (_, rows) in zip(requests, parts, strict=True):
                request.start_async([rows], share_inputs=True)
            for request in requests:
                request.wait()
            return [[output.data.copy() for output in request.output_tensors] for request in requests]
        finally:
            for idle, request in zip(queues, requests, strict=True):
                idle.put(request)

    def _network(self, network: _Network) -> queue.SimpleQueue[Any]:
        """Requests, as many as run side by side, of those that are idle."""
        with self._lock:
            if network not in self._networks:
                compiled = self._compile(network)
                idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
                for _ in range(network.streams):
                    idle.put(compiled.create_infer_request())
                self._networks[network] = idle
                while len(self._networks) > _KEPT:
                    self._networks.popitem(last=False)
            self._networks.move_to_end(network)
            return self._networks[network]

    def _compile(self, network: _Network) -> Any:
        # A fixed number of frames is 5 to 10 % faster than a free one. So is a fixed batch, where there are many nodes.
        shape = -1 if network.batch is None else network.batch, *network.shape
        winograd = () if network.batch is None else WINOGRAD_CHANNELS
        given, outputs = openvino_graph.network(self._trunk, self._branches, self._rows, shape, network.tasks, winograd)
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.dtype is torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": network.threads,
            "PERFORMANCE_HINT": "LATENCY" if network.streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": network.streams,
            "ENABLE_CPU_PINNING": False,
        }
        model = _library().Model(outputs, [given], "mtslvr")
        if winograd:
            with contextlib.suppress(RuntimeError):  # of versions that do not know it
                # Compiling takes a third less without these passes, which fuse nothing more here.
                return self._core.compile_model(model, "CPU", {**settings, "SNIPPETS_MODE": "DISABLE"})
        return self._core.compile_model(model, "CPU", settings)

    def __getstate__(self) -> dict[str, Any]:
        kept = "dtype", "_trunk", "_branches", "_rows", "_window"
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


@dataclass(frozen=True)
class _Network:
    """What a network is compiled for."""

    batch: int | None  # rows; None is any number, with direct convolutions
    shape: tuple[int, ...]  # of a row
    tasks: tuple[int, ...]
    threads: int
    streams: int  # requests side by side


_Part = tuple[_Network, Float32]


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
