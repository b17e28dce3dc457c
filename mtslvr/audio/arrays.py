"""An array or tensor in, blocks of samples from -1 to 1 out, as a file gives them; used by `load`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..errors import AudioError

MOST_CHANNELS = 16  # more rows are clips, not channels


class ArrayStream:
    """An array (samples,) or (channels, samples) as a `Stream`."""

    def __init__(self, array: npt.NDArray[Any] | Tensor, rate: int, label: str) -> None:
        self.rate, self._array = rate, _check_array(array, label)

    def blocks(self, step: int) -> Iterator[npt.NDArray[Any]]:
        """Read (m, channels) samples at a time, m = `step` but for the last."""
        for start in range(0, self._array.shape[1], step):
            yield _to_unit(self._array[:, start : start + step]).T


def _check_array(source: npt.NDArray[Any] | Tensor, label: str) -> npt.NDArray[Any]:
    array = _to_numpy(source, label) if isinstance(source, Tensor) else np.asarray(source)
    if array.dtype.kind not in "fiu":
        raise AudioError(f"{label}: dtype {array.dtype}: must be floating point or integer samples")
    rows = np.atleast_2d(array)
    if array.ndim not in (1, 2):
        said = "must be (samples,) or (channels, samples)"
    elif array.size == 0:
        said = "zero samples; leave it out"
    elif len(rows) > rows.shape[1]:
        said = f"{len(rows)} channels of {rows.shape[1]} samples; pass (channels, samples)"
    elif len(rows) > MOST_CHANNELS:
        remedy = "pass a batch of clips as a list of 1-D arrays, list(batch)"
        said = f"more than {MOST_CHANNELS} rows are no channels of a recording; {remedy}"
    else:
        return rows
    raise AudioError(f"{label}: shape {array.shape}: {said}")


def _to_numpy(tensor: Tensor, label: str) -> npt.NDArray[Any]:
    try:
        tensor = tensor.detach().cpu()
        # NumPy has no bfloat16; float32 holds every floating type of 16 bits or fewer exactly.
        return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise AudioError(f"{label}: {tensor.dtype} tensor that NumPy cannot hold ({error})") from None


def _to_unit(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if block.dtype.kind == "f":
        return block
    half = 2.0 ** (8 * block.dtype.itemsize - 1)
    offset = half if block.dtype.kind == "u" else 0.0
    return (block.astype(np.float64) - offset) / half
