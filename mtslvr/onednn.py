"""oneDNN's convolutions as torch offers them on a CPU, and their kernels in memory; next: `winograd`, `adapters`."""

from __future__ import annotations

import functools
import platform
import threading
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

_LAYING_OUT = threading.Lock()
_ORDERS = 3  # in which a kernel is kept, each a copy of its weights
_IMAGES = 64  # of which it is known in what order they need it


class Kernel:
    """Weights of a convolution, laid out once and not at every call.

    In which order oneDNN reads them depends on the processor, the images and the number of threads. Weights that are
    laid out in another order are brought to it in each call, number by number, which takes a hundred times as long as
    the convolution does. So they are laid out for the images that come first, and for others when they come for the
    second time. At their first time the call does it, fast since it is given plain weights.

    Args:
        weight: (C_out, C_in / groups, h, w), float32 or bfloat16.
        padding: of height and width.
        stride: of both.
        groups: of channels.
    """

    def __init__(self, weight: Tensor, padding: tuple[int, ...], stride: tuple[int, ...], groups: int = 1) -> None:
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.how: tuple[Any, ...] = padding, stride, (1, 1), groups
        self._laid_out: OrderedDict[bytes, Tensor] = OrderedDict()
        self._orders: OrderedDict[tuple[int, ...], bytes | None] = OrderedDict()  # None after the first time

    def convolve(self, x: Tensor, bias: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """`F.conv2d`; then `add` is added, then ReLU.

        Args:
            x: (B, C_in, H, W) of the weight's dtype, channels last in memory; B > 0.
            bias: (C_out,).
            add: (B, C_out, H', W'), or None; None where there are groups: torch fuses no sum with those.
            relu: whether to apply ReLU.
        Returns:
            (B, C_out, H', W'), channels last in memory; the numbers of an image are the same whatever the others.
        """
        weight, after = self._for_images(x), "relu" if relu else "none"
        y: Tensor
        if add is None:
            y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *self.how, after, [], "")
        else:
            last = after if relu else None
            pointwise = torch.ops.mkldnn._convolution_pointwise.binary
            y = pointwise(x, add, weight, bias, *self.how, "add", 1.0, last, [], None)
        return y

    def _for_images(self, x: Tensor) -> Tensor:
        threads = torch.get_num_threads()
        images = *x.shape[2:], threads, len(x) if threads > 1 else 0  # one thread reads the same for any number
        with _LAYING_OUT:  # once, and not by each of the threads that come at the same time
            order = self._orders.get(images)
            if order is not None and order in self._laid_out:
                self._orders.move_to_end(images)
                self._laid_out.move_to_end(order)
                return self._laid_out[order]
            if self._laid_out and images not in self._orders:
                self._remember(images, None)
                return self.weight
            laid_out: Tensor = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.how, [*x.shape])
            order = bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(laid_out).numpy())
            self._remember(images, order)
            laid_out = self._laid_out.setdefault(order, laid_out)
            if len(self._laid_out) > _ORDERS:
                self._laid_out.popitem(last=False)
            return laid_out

    def _remember(self, images: tuple[int, ...], order: bytes | None) -> None:
        self._orders[images] = order
        if len(self._orders) > _IMAGES:
            self._orders.popitem(last=False)


@functools.cache
def fused_operators() -> bool:
    """Whether torch has oneDNN's fused convolutions, on processors where they were seen to give the same numbers."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise", "_get_mkldnn_serialized_md")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return x86 and available and all(hasattr(torch.ops.mkldnn, name) for name in names)


def has_bfloat16() -> bool:
    """Whether they compute in bfloat16 on this processor."""
    name = "_is_mkldnn_bf16_supported"
    return hasattr(torch.ops.mkldnn, name) and bool(getattr(torch.ops.mkldnn, name)())
