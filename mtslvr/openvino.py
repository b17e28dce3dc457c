"""Trunk and branches of a folded encoder in OpenVINO, on the CPU; `hub.load(..., engine="openvino")` asks for it."""

from __future__ import annotations

import contextlib
import importlib
import queue
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
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
# Rows of the networks for windows of the encoder's own length. Weights are read from memory once a call: with eight
# rows each takes 5 % less time than with four, and with four a quarter less than alone.
_ROWS = 8, 4, 1
# Rows of zeros that are computed to fill networks for more rows, before one for fewer is compiled.
_FILLED = 32
# How many times as long as one of several a single row takes, at least.
_ALONE = 4 / 3


class OpenVINOEngine:
    """What `Encoder.engine` calls in place of trunk and branches.

    Most windows have the encoder's own length: their networks, for one row, four or eight, use Winograd's algorithm,
    which takes a second to compile and a fifth to a quarter off the time of each window. A window of another length has
    a network of direct convolutions, compiled in a fifth of a second, for any number of rows. Each is compiled at the
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
            found = self._found(given, _Network(0, given.shape[1:], tasks, threads * workers, workers), 1)
        else:
            with self._undivided:  # two calls, each with a part of the requests, would wait for each other for ever
                found = self._by_all_threads(given, tasks, threads)
        return [torch.from_numpy(rows[: len(given)]).to(spectrogram.device) for rows in found]

    def _by_all_threads(self, given: Float32, tasks: tuple[int, ...], threads: int) -> list[Float32]:
        count = parts_of(len(given), threads)
        network = _Network(0, given.shape[1:], tasks, threads, count)
        if len(given) > 1 or len(tasks) > threads or not self._is_window(given.shape):
            return self._found(given, network, count)
        filled = self._filled_up(given, replace(network, batch=1))
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
        parts: list[_Part] = []
        sizes = _ROWS if count == 1 or len(given) >= _ROWS[0] * count else _ROWS[1:]  # or some requests get none
        for batch in sizes:
            fitting = replace(network, batch=batch)
            while len(given) >= batch:
                filled = self._filled_up(given, fitting, sizes[0], [part[0] for part in parts])
                rows = len(given) if filled else batch
                parts.append(filled or (fitting, given[:batch]))
                given = given[rows:]
        return parts

    def _filled_up(
        self, given: Float32, fitting: _Network, most: int = _ROWS[0], begun: Sequence[_Network] = ()
    ) -> _Part | None:
        """Rows and zeros for a network for more that there is already, or is going to be; None where it does not pay.

        Args:
            given: as many rows as that network is for, or fewer.
            fitting: what they would have instead.
            most: rows of that network.
            begun: networks that this call uses anyway.
        """
        kind, rows = (fitting.shape, fitting.tasks), len(given)
        with self._lock:
            known = [*self._networks, *begun]
            alike = [n for n in known if (n.shape, n.tasks) == kind and fitting.batch < n.batch <= most]
            suited = [n for n in alike if n.batch >= rows]
            if not suited:
                return None
            network = min(suited, key=lambda n: (n.batch, replace(n, batch=fitting.batch) != fitting))
            missing = network.batch - rows
            if network.batch > _ALONE * rows:
                if fitting in known or self._filled[kind] + missing > _FILLED:
                    return None
                self._filled[kind] += missing
        return network, np.pad(given, ((0, missing), (0, 0), (0, 0), (0, 0)))

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
        shape = network.batch or -1, *network.shape
        winograd = WINOGRAD_CHANNELS if network.batch else ()
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

    batch: int  # rows; 0 is any number, with direct convolutions
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
