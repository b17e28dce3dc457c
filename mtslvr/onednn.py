"""oneDNN's convolutions as torch offers them on a CPU, and their kernels in memory; next: `winograd`, `adapters`."""

from __future__ import annotations

import functools
import platform
import threading
from collections import OrderedDict, deque
from typing import Any

import torch
from torch import Tensor

_LAYING_OUT = threading.Lock()
_SIZES = 2  # of images, for which a kernel is kept laid out
_REMEMBERED = 16  # sizes that came once


class Kernel:
    """Weights of a convolution, laid out once and not at every call.

    How oneDNN wants them depends on the processor and on height and width of the images, not on their number. Weights
    that are laid out otherwise are brought to that order in each call, number by number, which takes a hundred times
    as long as the convolution does. So they are laid out for the first size that comes, and for another one when it
    comes for the second time. At its first time the call does it, fast since it begins with plain weights.

    Args:
        weight: (C_out, C_in / groups, h, w), float32 or bfloat16.
        padding: of height and width.
        stride: of both.
        groups: of channels.
    """

    def __init__(self, weight: Tensor, padding: tuple[int, ...], stride: tuple[int, ...], groups: int = 1) -> None:
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.how: tuple[Any, ...] = padding, stride, (1, 1), groups
        self._laid_out: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._came_once: deque[tuple[int, ...]] = deque(maxlen=_REMEMBERED)

    def convolve(self, x: Tensor, bias: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """`F.conv2d`; then `add` is added, then ReLU.

        Args:
            x: (B, C_in, H, W) of the weight's dtype, channels last in memory; B > 0.
            bias: (C_out,).
            add: (B, C_out, H', W'), or None.
            relu: whether to apply ReLU.
        Returns:
            (B, C_out, H', W'), channels last in memory; the numbers of an image are the same whatever the others.
        """
        weight, after, y = self._for_images(x), "relu" if relu else "none", None
        if add is None:
            y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *self.how, after, [], "")
        else:
            last = after if relu else None
            pointwise = torch.ops.mkldnn._convolution_pointwise.binary
            y = pointwise(x, add, weight, bias, *self.how, "add", 1.0, last, [], None)
        return y  # type: ignore[no-any-return]

    def _for_images(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        with _LAYING_OUT:  # once, and not by each of the threads that come at the same time
            if size in self._laid_out:
                self._laid_out.move_to_end(size)
                return self._laid_out[size]
            if self._laid_out and size not in self._came_once:
                self._came_once.append(size)
                return self.weight
            laid_out: Tensor = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.how, [*x.shape])
            self._laid_out[size] = laid_out
            if size in self._came_once:
                self._came_once.remove(size)
            if len(self._laid_out) > _SIZES:
                self._laid_out.popitem(last=False)
            return laid_out


@functools.cache
def fused_operators() -> bool:
    """Whether torch has oneDNN's fused convolutions, on processors where they were seen to give the same numbers."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return x86 and available and all(hasattr(torch.ops.mkldnn, name) for name in names)
