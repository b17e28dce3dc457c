"""The encoder: front end, trunk, branches, heads; waveforms in, embeddings out; next: `checkpoint`, `extract`."""

from __future__ import annotations

import copy
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import EncoderConfig, Features, Layer, Normalization, parse_enum
from ..errors import AudioError, ConfigError
from .adapters import AdaptedConv
from .frontend import Frontend
from .resnet import Branches, Trunk


@dataclass(frozen=True)
class Embeddings:
    """The two embeddings of a batch, (B, D) each; an encoder with one output has it under both names."""

    invariant: Tensor
    variant: Tensor

    @property
    def concat(self) -> Tensor:
        """(B, 2 D), invariant first; (B, D) where there is one output."""
        if self.variant is self.invariant:
            return self.invariant
        return torch.cat([self.invariant, self.variant], dim=1)

    def select(self, features: Features) -> Tensor:
        """The embedding that `features` names."""
        return {
            Features.INVARIANT: lambda: self.invariant,
            Features.VARIANT: lambda: self.variant,
            Features.CONCAT: lambda: self.concat,
        }[features]()


torch.export.register_dataclass(Embeddings)  # what torch.export takes as an output


def standardize(waveforms: Tensor) -> Tensor:
    """Each row with mean 0 and unbiased standard deviation 1, by statistics in float64.

    Args:
        waveforms: (B, T).
    Returns:
        (B, T); zeros where a row is constant to within float32 rounding.
    """
    rows = waveforms.to(torch.float64, copy=True)
    mean = rows.mean(dim=1, keepdim=True)
    centred = rows.sub_(mean)  # a second pass over the samples is several times as fast as torch.std_mean's single one
    std = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / math.sqrt(rows.shape[1] - 1)
    silent = ~(std > mean.abs() * 2.0**-24)
    scaled: Tensor = centred * std.masked_fill(silent, torch.inf).reciprocal()
    return scaled.to(waveforms.dtype)


class _ExactFloat32:
    """Counts who needs it, for the setting is one of the whole process."""

    lock = threading.Lock()
    users = 0
    before = False


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """On GPUs torch lets convolutions round float32 to 10 bits (TF32), an error of 1e-3; not within this context."""
    if device.type != "cuda" or torch.compiler.is_compiling():
        yield
        return
    with _ExactFloat32.lock:
        if _ExactFloat32.users == 0:
            _ExactFloat32.before = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = False
        _ExactFloat32.users += 1
    try:
        yield
    finally:
        with _ExactFloat32.lock:
            _ExactFloat32.users -= 1
            if _ExactFloat32.users == 0:
                torch.backends.cudnn.allow_tf32 = _ExactFloat32.before


def spectral_statistics(spectrogram: Tensor) -> Tensor:
    """What global pooling loses: how loud each mel band is, how much that varies and how fast.

    Args:
        spectrogram: (B, channels, n_mels, frames), channel 0 in dB.
    Returns:
        (B, 3 n_mels): mean, population deviation and mean absolute difference between frames, each over time, in units
        of 32 dB, which brings them to the spread of pooled features; the last is 0 for a single frame.
    """
    bands = spectrogram[:, 0].contiguous() / 32  # as the front end lays them out; sums round by it
    mean = bands.mean(dim=2)
    deviation = (bands - mean[:, :, None]).square().mean(dim=2).sqrt()  # torch.std takes several times as long on a CPU
    change = bands.diff(dim=2).abs().sum(dim=2) / max(1, bands.shape[2] - 1)
    return torch.cat([mean, deviation, change], dim=1)


def _check_tensor(waveforms: object) -> None:
    if not isinstance(waveforms, Tensor):
        said = "an encoder takes a tensor (batch, samples); files and arrays go to mtslvr.embed(..., encoder=encoder)"
        raise AudioError(f"waveforms of type {type(waveforms).__name__}: {said}")


class Encoder(nn.Module):
    """An MT-SLVR encoder: one shared ResNet-18, two task paths, two embeddings.

    Args:
        config: what to build; weights are initialised at random (load trained ones with `mtslvr.load`).
    Source:
        Heggan et al. 2023, "MT-SLVR", arXiv 2305.17191.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = Frontend(config.frontend)
        self.trunk = Trunk(config.frontend.channels, config.adapter)
        self.branches = Branches(config.adapter, config.tasks)
        widths = [sum(blocks) for blocks in config.pooled_blocks]
        read = [widths[min(head, config.tasks - 1)] for head in range(config.heads)]
        self.heads = nn.ModuleList(nn.Linear(width, config.head_dim) for width in read)

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms that the encoder takes."""
        return self.config.frontend.sample_rate

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """In which trunk and branches are computed; front end and heads are float32 always."""
        return next(self.trunk.parameters()).dtype

    @property
    def folded(self) -> bool:
        """Whether adapters and batch norms are folded into plain convolutions."""
        return not any(isinstance(module, AdaptedConv) for module in self.modules())

    def embedding_dim(self, features: Features | str = Features.CONCAT, layer: Layer | str = Layer.HEAD) -> int:
        """Width of an embedding."""
        return self.config.embedding_dim(parse_enum(Features, features, "features"), parse_enum(Layer, layer, "layer"))

    def forward(self, waveforms: Tensor, layer: Layer | str = Layer.HEAD) -> Embeddings:
        """Embed a batch of windows, each normalised as the config says (a row counts as a file).

        Args:
            waveforms: (B, T) mono at `sample_rate` Hz; T is free, `config.window_length` is what it was trained on.
            layer: "head" or "pooled".
        Returns:
            Embeddings of (B, head_dim) each, or what the heads read, (B, 512) with the published pooling; see
            `embedding_dim`.
        Raises:
            AudioError: no tensor, wrong rank, integers, or too short for one STFT frame.
        """
        return self.encode(self.normalize(waveforms), layer)

    def normalize(self, waveforms: Tensor) -> Tensor:
        """(B, T) waveforms brought to mean 0 and standard deviation 1 as the config says.

        Raises:
            AudioError: no tensor, wrong rank, or integers.
        """
        _check_tensor(waveforms)
        if waveforms.ndim != 2:
            raise AudioError(f"waveforms of shape {tuple(waveforms.shape)}: expected (batch, samples)")
        if not waveforms.is_floating_point():
            raise AudioError(
                f"waveforms of {waveforms.dtype}: expected floating point from -1 to 1; divide 16-bit samples by "
                "32768, or use embed(), which does"
            )
        if waveforms.dtype is not torch.float64:
            waveforms = waveforms.float()
        mode = self.config.normalization
        if mode is Normalization.NONE:
            return waveforms
        if mode is Normalization.GLOBAL:
            return (waveforms - self.config.global_mean) / self.config.global_std
        return standardize(waveforms)

    def encode(self, waveforms: Tensor, layer: Layer | str = Layer.HEAD) -> Embeddings:
        """`forward` for waveforms that are normalised already."""
        _check_tensor(waveforms)
        return self.encode_spectrogram(self.frontend(waveforms), layer)

    def encode_spectrogram(self, spectrogram: Tensor, layer: Layer | str = Layer.HEAD) -> Embeddings:
        """`forward` from the front end's output.

        Args:
            spectrogram: (B, channels, n_mels, frames).
            layer: "head" or "pooled".
        """
        layer = parse_enum(Layer, layer, "layer")
        pooled = self.paths(spectrogram, range(self.config.tasks))
        if layer is Layer.POOLED:
            return Embeddings(pooled[0], pooled[-1])
        invariant = self.heads[0](pooled[0])
        return Embeddings(invariant, invariant if self.config.outputs == 1 else self.heads[-1](pooled[-1]))

    def embedding(
        self,
        waveforms: Tensor,
        features: Features | str = Features.CONCAT,
        layer: Layer | str = Layer.HEAD,
        *,
        normalized: bool = False,
    ) -> Tensor:
        """One embedding of a batch; the path of the other one is not computed.

        Args:
            waveforms: see `forward`.
            features: "invariant", "variant" or "concat".
            layer: "head" or "pooled".
            normalized: the waveforms are normalised already.
        Returns:
            (B, D), D as `embedding_dim` says; the numbers that `forward` gives.
        Raises:
            AudioError: see `forward`.
            ConfigError: unknown features or layer.
        """
        features, layer = parse_enum(Features, features, "features"), parse_enum(Layer, layer, "layer")
        if features is Features.CONCAT or self.config.tasks == 1:
            found = self.encode(waveforms, layer) if normalized else self(waveforms, layer)
            return found.select(features)
        task = 0 if features is Features.INVARIANT else self.config.tasks - 1
        [pooled] = self.paths(self.frontend(waveforms if normalized else self.normalize(waveforms)), [task])
        return pooled if layer is Layer.POOLED else self.project(pooled, features)

    def project(self, pooled: Tensor, features: Features | str = Features.CONCAT) -> Tensor:
        """What the heads make of pooled features.

        Args:
            pooled: (B, D) as `embedding` gives it for the same features and the layer "pooled".
            features: "invariant", "variant" or "concat".
        Returns:
            What `embedding` gives for the layer "head".
        """
        features = parse_enum(Features, features, "features")
        if features is not Features.CONCAT:
            return self.heads[0 if features is Features.INVARIANT else -1](pooled)  # type: ignore[no-any-return]
        widths = [sum(blocks) for blocks in self.config.pooled_blocks]
        parts = torch.split(pooled, widths, dim=1) if self.config.tasks == 2 else (pooled,)
        return torch.cat([self.heads[i](parts[i]) for i in (0, -1)[: self.config.outputs]], dim=1)

    def paths(self, spectrogram: Tensor, tasks: Sequence[int]) -> list[Tensor]:
        """What the heads of some tasks read; see `pooled`."""
        with exact_float32(spectrogram.device):
            shared = self.shared(spectrogram)
            return [self.pooled(shared, spectrogram, task) for task in tasks]

    def shared(self, spectrogram: Tensor) -> Tensor:
        """What both tasks read: the trunk's output for (B, channels, n_mels, frames)."""
        dtype = next(self.trunk.parameters()).dtype
        # Two steps: torch takes twice as long to change dtype and order in one.
        return self.trunk(spectrogram.to(dtype).to(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    def pooled(self, shared: Tensor, spectrogram: Tensor, task: int) -> Tensor:
        """What one task's head reads: (B, 512) means, or what `EncoderConfig.pooled_blocks` says.

        With spectral statistics more for the variant one.
        """
        read = self.read(shared, task)
        if self.config.spectral_statistics and task == self.config.tasks - 1:
            return torch.cat([read, spectral_statistics(spectrogram).to(read.dtype)], dim=1)
        return read

    def read(self, shared: Tensor, task: int) -> Tensor:
        """`pooled` without spectral statistics."""
        rows = self.config.rows[task]
        dtype = next(self.heads.parameters()).dtype
        if rows is None:
            return self.branches(shared, task).mean(dim=(2, 3), dtype=dtype)  # type: ignore[no-any-return]
        third, fourth = self.branches.stages(shared, task, rows.layer4)
        parts = third[:, :, rows.layer3[0] : rows.layer3[1]], fourth
        read = [x.amax(dim=3).flatten(1).to(dtype) for x in parts]
        if rows.means:
            read.extend(x.mean(dim=3, dtype=dtype).flatten(1) for x in parts)
        return torch.cat(read, dim=1)

    def train(self, mode: bool | None = None) -> Encoder:
        """Training mode, or evaluation mode with False, as of any module.

        Raises:
            ConfigError: `train()` of a folded encoder, in which nothing is trained. A mode that a module passes on to
                the encoder it holds is taken, for a folded encoder computes the same in both.
        """
        if mode is None and self.folded:
            raise ConfigError(
                "this encoder is folded, so it cannot be trained; load it with mtslvr.load(..., fold=False)"
            )
        return super().train(mode is None or mode)

    def fold(self) -> Encoder:
        """A copy for inference: adapters and batch norms folded exactly into plain convolutions with bias.

        Returns:
            An encoder in evaluation mode with channels_last weights; equal to this one in evaluation mode to
            1e-5 relative in float32, and no longer trainable.
        """
        folded = copy.deepcopy(self).requires_grad_(False)
        for module in list(folded.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, AdaptedConv):
                    setattr(module, name, child.fold())
        folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        return folded.eval()

    def save(
        self, folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.float16, card: str | None = None
    ) -> Path:
        """Write what `mtslvr.load` takes and a hub repository holds: config.json, model.safetensors, README.md.

        Args:
            folder: made where missing.
            dtype: of the stored floating-point tensors; float32 keeps embeddings to the last bit.
            card: text of README.md, the model card; without it, one that is there stays.
        Returns:
            The folder.
        Raises:
            CheckpointError: folded (load with `fold=False`), or the folder cannot be written.
        """
        from ..models import checkpoint

        return checkpoint.save(self, folder, dtype=dtype, card=card)
