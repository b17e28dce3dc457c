"""ResNet-18 in two parts: the trunk that both tasks share and the branches with one path a task; next: `encoder`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import STAGE_CHANNELS, AdapterKind
from .adapters import AdaptedConv

_PLAIN = (AdapterKind.NONE, AdapterKind.SPLIT)


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
        self.shortcut = (
            AdaptedConv(in_channels, out_channels, 1, stride, AdapterKind.NONE, 1)
            if changes and kind in _PLAIN
            else None
        )

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
    return nn.ModuleList(
        [
            Block(in_channels, out_channels, stride, kind, tasks),
            Block(out_channels, out_channels, 1, kind, tasks),
        ]
    )


class Trunk(nn.Module):
    """Stem and stage 1: one task only, so both branches read the same result."""

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
