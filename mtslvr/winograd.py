"""3x3 convolution with half the multiplications: Winograd's F(4, 3) over rows, in torch and oneDNN on a CPU.

Four rows of the output and the six rows that they read are a tile. Its rows and those of the kernel are brought to six
points, at each of which there is one convolution along the width, with 1x3 kernels; what comes out is brought back to
four rows. Over rows only, not over columns, too: the number of mel bands fits tiles where a number of frames does not,
errors stay near those of direct convolution, and what is done beside the products takes a few percent. `adapters` uses
it for folded weights, `openvino_graph` builds it of that library's operations. As in direct convolution, an image gets
the same numbers whatever the batch.

The points are 0, 3/2, -3/2, 2/3, -2/3 and infinity: of those with small numbers they round least in bfloat16, at half
of the error that 0, 1, -1, 2, -2 and infinity have.

Source:
    Lavin, Gray 2016, "Fast algorithms for convolutional neural networks", arXiv 1509.09308.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from .onednn import Kernel

ROWS = 4  # of a tile
OUTER, INNER = 3 / 2, 2 / 3  # points, with both signs
SUM_OF_SQUARES = OUTER**2 + INNER**2  # the product of the squares is 1, which saves multiplications
POINTS = 6
_KEPT = 2**23  # numbers: the most that a thread keeps of each kind


class _Kept(threading.local):
    def __init__(self) -> None:
        self.blocks: dict[tuple[str, torch.dtype], Tensor] = {}


_kept = _Kept()


def at_points(weight: Tensor) -> Tensor:
    """(C_out, C_in, 3, 3) kernels at the six points, (6, C_out, C_in, 1, 3) in float64."""
    finite = torch.tensor([0, OUTER, -OUTER, INNER, -INNER], dtype=torch.float64)
    apart = (finite[:, None] - finite).fill_diagonal_(1).prod(dim=1)
    rows = torch.vander(finite, 3, increasing=True) / apart[:, None]
    rows = torch.cat([rows, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)])
    return torch.einsum("kr,oirc->koic", rows, weight.double())[:, :, :, None]


def kernel_of(weight: Tensor) -> Kernel:
    """(C_out, C_in, 3, 3) at the six points, for `convolve`."""
    return Kernel(at_points(weight).to(weight.dtype).flatten(0, 1), (0, 1), (1, 1), POINTS)


def convolve(x: Tensor, kernel: Kernel, bias: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=1)`; then `add` is added, then ReLU.

    Args:
        x: (B, C_in, H, W), float32 or bfloat16, channels last in memory; H is a multiple of 4.
        kernel: from `kernel_of`.
        bias: (C_out,).
        add: (B, C_out, H, W), or None.
        relu: whether to apply ReLU.
    Returns:
        (B, C_out, H, W), channels last in memory.
    """
    batch, channels, height, width = x.shape
    tiles = batch, height // ROWS, width
    rows = x.permute(0, 2, 3, 1).reshape(batch, height // ROWS, ROWS, width, channels)
    points = _scratch("points", x, (*tiles, POINTS, channels))
    _to_points(rows, points)
    biases = torch.cat([bias, bias.new_zeros((POINTS - 2) * len(bias)), bias])  # the others' outputs share products
    images = points.view(*tiles, -1).permute(0, 3, 1, 2)
    product = kernel.convolve(images, biases)
    y = x.new_empty(batch, height // ROWS, ROWS, width, len(bias))
    _from_points(product.permute(0, 2, 3, 1).view(*tiles, POINTS, -1), bias, y)
    y = y.view(batch, height, width, -1).permute(0, 3, 1, 2)
    if add is not None:
        y.add_(add)
    return y.relu_() if relu else y


# No operation below has more than two loops where it can be helped: torch's take several times as long with three.
def _to_points(rows: Tensor, points: Tensor) -> None:
    """(B, H / 4, 4, W, C) to (B, H / 4, W, 6, C)."""
    first, second, third, fourth = rows.unbind(2)
    zero, *finite, infinity = points.unbind(3)
    even, odd = _scratch("inputs", rows, (2, *first.shape)).unbind()
    for point, other, (positive, negative) in ((OUTER, INNER, finite[:2]), (INNER, OUTER, finite[2:])):
        torch.sub(fourth, second, alpha=other**2, out=even)
        torch.sub(third, first, alpha=other**2, out=odd)
        torch.add(even, odd, alpha=point, out=positive)
        torch.sub(even, odd, alpha=point, out=negative)
    torch.sub(fourth, second, alpha=SUM_OF_SQUARES, out=zero)
    torch.sub(first, third, alpha=SUM_OF_SQUARES, out=infinity)
    if rows.shape[1] > 1:  # beyond the image there are zeros
        zero[:, 1:].add_(fourth[:, :-1])
        infinity[:, :-1].add_(first[:, 1:])


def _from_points(points: Tensor, bias: Tensor, rows: Tensor) -> None:
    """(B, H / 4, W, 6, C) to (B, H / 4, 4, W, C)."""
    zero, outer, minus_outer, inner, minus_inner, infinity = points.unbind(3)
    outer_even, outer_odd, inner_even, inner_odd = _scratch("outputs", bias, (4, *zero.shape)).unbind()
    torch.add(outer, minus_outer, out=outer_even)
    torch.sub(outer, minus_outer, out=outer_odd)
    torch.add(inner, minus_inner, out=inner_even)
    torch.sub(inner, minus_inner, out=inner_odd)
    first, second, third, fourth = rows.unbind(2)
    torch.add(zero, outer_even, out=first).add_(inner_even)
    torch.add(bias, outer_odd, alpha=OUTER, out=second).add_(inner_odd, alpha=INNER)
    torch.add(bias, outer_even, alpha=OUTER**2, out=third).add_(inner_even, alpha=INNER**2)
    torch.add(infinity, outer_odd, alpha=OUTER**3, out=fourth).add_(inner_odd, alpha=INNER**3)


def _scratch(name: str, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uninitialised memory that the thread keeps for its next call: freed, such blocks went back to the system.

    Args:
        name: what it is for; the same one is the same memory.
        like: of its dtype.
        shape: of the tensor; one of more than _KEPT numbers is not kept.
    """
    count, key = math.prod(shape), (name, like.dtype)
    if count > _KEPT:
        return like.new_empty(shape)
    memory = _kept.blocks.get(key)
    if memory is None or len(memory) < count:
        with torch.inference_mode(False):  # or it could not be written to outside of inference mode
            memory = _kept.blocks[key] = torch.empty(count, dtype=like.dtype)
    return memory[:count].view(shape)
