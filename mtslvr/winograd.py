"""3x3 convolution with a quarter of the multiplications: Winograd's F(4x4, 3x3), in torch and oneDNN on a CPU.

Tiles of 6x6 inputs and the kernels are brought to 36 points, where a convolution is one product of matrices a point;
what comes out is brought back to tiles of 4x4 outputs. `adapters` uses it for folded weights where it is faster than
direct convolution. Like that, it gives a row the same numbers whatever the batch.

Source:
    Lavin, Gray 2016, "Fast algorithms for convolutional neural networks", arXiv 1509.09308.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

OUT, IN = 4, 6  # pixels of a tile, a side
POINTS = IN * IN
_BIAS_POINT = IN + 1  # its product reaches every output of a tile with factor 1
_KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
           (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
_HOW: tuple[Any, ...] = (0, 0), (1, 1), (1, 1), POINTS  # padding, stride, dilation, groups
_KEPT = 2**23  # numbers: the most that a thread keeps of each kind
_kept = threading.local()


def saving(height: int, width: int) -> float:
    """How many times fewer multiplications an image of this size needs; 4 where tiles fit it."""
    return 9 * height * width / (POINTS * -(-height // OUT) * -(-width // OUT))


def reorder_kernel(weight: Tensor) -> Tensor:
    """(C_out, C_in, 3, 3) at the 36 points, in oneDNN's order for `convolve`; computed in float64."""
    kernel = torch.tensor(_KERNEL, dtype=torch.float64)
    points = torch.kron(kernel, kernel) @ weight.double().reshape(-1, 9).T  # (36, C_out * C_in)
    grouped = points.to(weight.dtype).view(-1, weight.shape[1], 1, 1)
    reordered: Tensor = torch.ops.mkldnn._reorder_convolution_weight(grouped, *_HOW, None)
    return reordered


def convolve(x: Tensor, kernel: Tensor, bias: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=1)`; then `add` is added, then ReLU.

    Args:
        x: (B, C_in, H, W) float32, channels last in memory.
        kernel: from `reorder_kernel`.
        bias: (C_out,).
        add: (B, C_out, H, W), or None.
        relu: whether to apply ReLU.
    Returns:
        (B, C_out, H, W), channels last in memory.
    """
    batch, channels, height, width = x.shape
    rows, columns = -(-height // OUT), -(-width // OUT)
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, columns * OUT - width + 1, 1, rows * OUT - height + 1))
    halfway = _scratch("halfway", x, (IN, batch, rows, columns * OUT + 2, channels))
    _inputs([padded[:, i : i + rows * OUT - 3 : OUT] for i in range(IN)], halfway)
    tiles = _scratch("tiles", x, (batch, rows, columns, IN, IN, channels))
    _inputs([halfway[:, :, :, i : i + columns * OUT - 3 : OUT] for i in range(IN)], tiles.permute(4, 3, 0, 1, 2, 5))

    biases = F.pad(bias[None], (0, 0, _BIAS_POINT, POINTS - 1 - _BIAS_POINT)).flatten()
    points = tiles.view(1, -1, 1, POINTS * channels).permute(0, 3, 1, 2)
    product = torch.ops.mkldnn._convolution_pointwise(points, kernel, biases, *_HOW, "none", [], "")
    product = product.permute(0, 2, 3, 1).reshape(batch, rows, columns, IN, IN, -1).permute(3, 4, 0, 1, 2, 5)

    halfway = _scratch("halfway", x, (OUT, IN, batch, rows, columns, len(bias)))
    _outputs(product, halfway)
    y = x.new_empty(batch, rows, OUT, columns, OUT, len(bias))
    _outputs(halfway.transpose(0, 1), y.permute(4, 2, 0, 1, 3, 5))
    y = y.view(batch, rows * OUT, columns * OUT, -1)[:, :height, :width].permute(0, 3, 1, 2)
    if add is not None:
        y = y + add
        return y.relu_() if relu else y
    return y.relu() if relu else y.contiguous(memory_format=torch.channels_last)


def _scratch(name: str, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uninitialised memory that the thread keeps for its next call: freed, such blocks went back to the system.

    Args:
        name: what it is for; the same one is the same memory.
        like: of its dtype.
        shape: of the tensor; one of more than _KEPT numbers is not kept.
    """
    count, key = math.prod(shape), f"{name} {like.dtype}"
    if count > _KEPT:
        return like.new_empty(shape)
    memory: Tensor | None = getattr(_kept, key, None)
    if memory is None or len(memory) < count:
        with torch.inference_mode(False):  # or it could not be written to outside of inference mode
            memory = torch.empty(count, dtype=like.dtype)
        setattr(_kept, key, memory)
    return memory[:count].view(shape)


def _inputs(x: list[Tensor], out: Tensor) -> None:
    """Six inputs along an axis to six points."""
    even, odd = torch.sub(x[4], x[2], alpha=4), torch.sub(x[3], x[1], alpha=4)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    even, odd = x[4] - x[2], x[3] - x[1]
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    torch.add(even, x[0] - x[2], alpha=4, out=out[0])
    torch.sub(x[5] - x[3], odd, alpha=4, out=out[5])


def _outputs(x: Tensor, out: Tensor) -> None:
    """Six points along the first axis to four outputs."""
    even, odd, wide_even, wide_odd = x[1] + x[2], x[1] - x[2], x[3] + x[4], x[3] - x[4]
    torch.add(odd, wide_odd, alpha=2, out=out[1])
    torch.add(even, wide_even, alpha=4, out=out[2])
    torch.add(odd.add_(wide_odd, alpha=8), x[5], out=out[3])
    torch.add(even.add_(wide_even), x[0], out=out[0])
