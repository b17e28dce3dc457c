"""ResNet-18 with adapted convolutions: the trunk that both tasks share, branches with one path a task; next: `encoder`.

Source:
    Rebuffi et al. 2018, "Efficient parametrization of multi-domain deep neural networks", as used by
    Heggan et al. 2023: the convolution is shared by both tasks, adapter and batch norm belong to one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import STAGE_CHANNELS, AdapterKind

_PLAIN = (AdapterKind.NONE, AdapterKind.SPLIT)


class SharedOnly(nn.Module):
    """No adapter: the shared convolution alone (none, split, bn)."""

    def forward(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W')."""
        y: Tensor = conv(x)
        return y

    def fold(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The equivalent kernel and bias, of the shared kernel in float64."""
        return weight, weight.new_zeros(weight.shape[0])


class SeriesAdapter(nn.Module):
    """h + A BN(h) behind the shared convolution's output h; A is a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W')."""
        h = conv(x)
        y: Tensor = h + self.conv(self.norm(h))
        return y

    def fold(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """W + A diag(s) W and A b, where BN(h) = s h + b."""
        scale, shift = norm_affine(self.norm)
        mix = self.conv.weight.double()[:, :, 0, 0]
        return weight + torch.einsum("oc,cikl->oikl", mix * scale, weight), mix @ shift


class ParallelAdapter(nn.Module):
    """conv(x) + A x with a 1x1 convolution A of the same stride.

    A 1x1 kernel is a 3x3 kernel that is zero but for its centre, so both are one convolution with the
    summed kernel; training does it that way too, which saves a pass over the activations.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W')."""
        kernel = conv.weight + F.pad(self.conv.weight, (1, 1, 1, 1))
        return F.conv2d(x, kernel, None, conv.stride, conv.padding)

    def fold(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """W + A at the centre, no bias."""
        return weight + F.pad(self.conv.weight.double(), (1, 1, 1, 1)), weight.new_zeros(weight.shape[0])


def make_adapter(kind: AdapterKind, in_channels: int, out_channels: int) -> nn.Module:
    """The adapter of one task in one convolution."""
    if kind is AdapterKind.SERIES:
        return SeriesAdapter(out_channels)
    if kind is AdapterKind.PARALLEL:
        return ParallelAdapter(in_channels, out_channels)
    return SharedOnly()


def norm_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift, (C,) float64 each, of a batch norm with its running statistics."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


class AdaptedConv(nn.Module):
    """A shared convolution followed, for each task, by its adapter and its batch norm."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, kind: AdapterKind, tasks: int
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.adapters = nn.ModuleList(make_adapter(kind, in_channels, out_channels) for _ in range(tasks))
        for module in self.adapters.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.norms = nn.ModuleList(nn.BatchNorm2d(out_channels) for _ in range(tasks))

    def forward(self, x: Tensor, task: int, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W') for one task; then `add` is added, then ReLU."""
        y = self.norms[task](self.adapters[task](x, self.conv))
        y = y if add is None else y + add
        return F.relu(y, inplace=True) if relu else y

    @torch.no_grad()
    def fold(self) -> FoldedConv:
        """The same function in evaluation mode as plain convolutions with bias; computed in float64."""
        shared = self.conv.weight.double()
        weights, biases = [], []
        for adapter, norm in zip(self.adapters, self.norms, strict=True):
            assert isinstance(adapter, (SharedOnly, SeriesAdapter, ParallelAdapter))
            assert isinstance(norm, nn.BatchNorm2d)
            weight, bias = adapter.fold(shared)
            scale, shift = norm_affine(norm)
            weights.append(weight * scale[:, None, None, None])
            biases.append(bias * scale + shift)
        return FoldedConv(weights, biases, self.conv)


class FoldedConv(nn.Module):
    """One plain convolution with bias a task."""

    def __init__(self, weights: list[Tensor], biases: list[Tensor], conv: nn.Conv2d) -> None:
        super().__init__()
        dtype = conv.weight.dtype
        self.weights = nn.ParameterList(nn.Parameter(w.to(dtype), requires_grad=False) for w in weights)
        self.biases = nn.ParameterList(nn.Parameter(b.to(dtype), requires_grad=False) for b in biases)
        assert not isinstance(conv.padding, str)
        self.stride, self.padding = conv.stride, conv.padding

    def forward(self, x: Tensor, task: int, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """`AdaptedConv.forward`."""
        y = F.conv2d(x, self.weights[task], self.biases[task], self.stride, self.padding)
        y = y if add is None else y.add_(add)
        return F.relu_(y) if relu else y


class Block(nn.Module):
    """Basic residual block: conv, ReLU, conv, plus shortcut, ReLU.

    Without adapters the shortcut is projected where the shape changes (torchvision's ResNet); with adapters
    it has no parameters: average-pooled to the output's size, zero channels appended.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, kind: AdapterKind, tasks: int) -> None:
        super().__init__()
        self.conv1 = AdaptedConv(in_channels, out_channels, 3, stride, kind, tasks)
        self.conv2 = AdaptedConv(out_channels, out_channels, 3, 1, kind, tasks)
        changes = stride != 1 or in_channels != out_channels
        projects = changes and kind in _PLAIN
        self.shortcut = AdaptedConv(in_channels, out_channels, 1, stride, AdapterKind.NONE, 1) if projects else None

    def forward(self, x: Tensor, task: int) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W') for one task."""
        y = self.conv1(x, task, relu=True)
        shortcut = pooled_shortcut(x, y) if self.shortcut is None else self.shortcut(x, 0)
        result: Tensor = self.conv2(y, task, add=shortcut, relu=True)
        return result


def pooled_shortcut(x: Tensor, output: Tensor) -> Tensor:
    """`x` average-pooled and zero-padded to the shape of `output`.

    On odd sizes the pooling windows overlap (79 to 40), so this is not a plain 2x2 average.
    """
    if x.shape == output.shape:
        return x
    pooled = F.adaptive_avg_pool2d(x, (output.shape[-2], output.shape[-1]))
    return F.pad(pooled, (0, 0, 0, 0, 0, output.shape[1] - x.shape[1]))


def stage(index: int, kind: AdapterKind, tasks: int) -> nn.ModuleList:
    """The two blocks of stage `index` (1 to 4)."""
    out_channels = STAGE_CHANNELS[index - 1]
    in_channels = STAGE_CHANNELS[max(index - 2, 0)]
    stride = 1 if index == 1 else 2
    first = Block(in_channels, out_channels, stride, kind, tasks)
    return nn.ModuleList([first, Block(out_channels, out_channels, 1, kind, tasks)])


class Trunk(nn.Module):
    """Stem and stage 1, computed once; both tasks' branches read this result."""

    def __init__(self, channels: int, kind: AdapterKind) -> None:
        super().__init__()
        self.stem = AdaptedConv(channels, STAGE_CHANNELS[0], 7, 2, AdapterKind.NONE, 1)
        self.layer1 = stage(1, kind, 1)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(B, channels, n_mels, frames) of any dtype to (B, 64, n_mels / 4, frames / 4)."""
        # Two steps: torch takes twice as long to change dtype and order in one.
        x = spectrogram.to(next(self.parameters()).dtype).to(memory_format=torch.channels_last)
        x = F.max_pool2d(self.stem(x, 0, relu=True), 3, 2, 1)
        for block in self.layer1:
            x = block(x, 0)
        return x


class Branches(nn.Module):
    """Stages 2 to 4 with one path a task, then the task's own batch norm and ReLU (adapters only)."""

    def __init__(self, kind: AdapterKind, tasks: int) -> None:
        super().__init__()
        self.layer2 = stage(2, kind, tasks)
        self.layer3 = stage(3, kind, tasks)
        self.layer4 = stage(4, kind, tasks)
        count = 0 if kind in _PLAIN else tasks
        self.end_norms = nn.ModuleList(nn.BatchNorm2d(STAGE_CHANNELS[-1]) for _ in range(count))

    def forward(self, x: Tensor, task: int) -> Tensor:
        """(B, 64, H, W) to (B, 512, H / 8, W / 8) for one task."""
        return self.stages(x, task)[1]

    def stages(self, x: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """What stages 3 and 4 give for one task: (B, 256, H / 4, W / 4) and (B, 512, H / 8, W / 8)."""
        for blocks in (self.layer2, self.layer3):
            for block in blocks:
                x = block(x, task)
        third = x
        for block in self.layer4:
            x = block(x, task)
        return third, F.relu(self.end_norms[task](x)) if len(self.end_norms) else x
