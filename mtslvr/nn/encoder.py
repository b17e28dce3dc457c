"""The encoder: front end, trunk, branches, heads; waveforms in, embeddings out; next: `checkpoint`, `extract`."""

from __future__ import annotations

import copy
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, EncoderConfig, Features, Layer, Normalization, parse_enum
from ..errors import AudioError, CheckpointError, ConfigError
from .frontend import Frontend, spectral_statistics, standardize
from .resnet import AdaptedConv, Branches, Trunk

_TF32 = threading.RLock()


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
        found: Tensor = getattr(self, features.value)
        return found


torch.export.register_dataclass(Embeddings, serialized_type_name="mtslvr.Embeddings")  # what torch.export can save


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """On GPUs torch lets convolutions round float32 to 10 bits (TF32), an error of 1e-3; not within this context.

    The setting is one of the whole process, so one thread at a time is within.
    """
    if device.type != "cuda" or torch.compiler.is_compiling():
        yield
        return
    with _TF32:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before


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
        """(B, T) waveforms brought to mean 0 and standard deviation 1 as the config says; raises as `forward`."""
        if not isinstance(waveforms, Tensor):
            raise AudioError(
                f"waveforms of type {type(waveforms).__name__}: an encoder takes a tensor (batch, samples); "
                "files and arrays go to mtslvr.embed(..., encoder=encoder)"
            )
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
        return self.encode_spectrogram(self.frontend(waveforms), layer)

    def encode_spectrogram(self, spectrogram: Tensor, layer: Layer | str = Layer.HEAD) -> Embeddings:
        """`forward` from the front end's output, (B, channels, n_mels, frames)."""
        layer = parse_enum(Layer, layer, "layer")
        pooled = self._paths(spectrogram, range(self.config.tasks))
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
        """One embedding of a batch, (B, `embedding_dim`), as `forward` gives it; the other one's path is not computed.

        Args:
            waveforms, layer: see `forward`.
            features: "invariant", "variant" or "concat".
            normalized: the waveforms are normalised already.
        """
        features, layer = parse_enum(Features, features, "features"), parse_enum(Layer, layer, "layer")
        if features is Features.CONCAT or self.config.tasks == 1:
            found = self.encode(waveforms, layer) if normalized else self(waveforms, layer)
            return found.select(features)
        waveforms = waveforms if normalized else self.normalize(waveforms)
        [pooled] = self._paths(self.frontend(waveforms), [0 if features is Features.INVARIANT else 1])
        return pooled if layer is Layer.POOLED else self.project(pooled, features)

    def project(self, pooled: Tensor, features: Features | str = Features.CONCAT) -> Tensor:
        """What the heads make of pooled features, (B, D) as `embedding` gives them for the same `features`."""
        features = parse_enum(Features, features, "features")
        if features is not Features.CONCAT:
            return self.heads[0 if features is Features.INVARIANT else -1](pooled)  # type: ignore[no-any-return]
        widths = [sum(blocks) for blocks in self.config.pooled_blocks]
        parts = torch.split(pooled, widths, dim=1) if self.config.tasks == 2 else (pooled,)
        return torch.cat([self.heads[i](parts[i]) for i in (0, -1)[: self.config.outputs]], dim=1)

    def _paths(self, spectrogram: Tensor, tasks: Sequence[int]) -> list[Tensor]:
        with exact_float32(spectrogram.device):
            shared = self.trunk(spectrogram)
            return [self.pooled(shared, spectrogram, task) for task in tasks]

    def pooled(self, shared: Tensor, spectrogram: Tensor, task: int) -> Tensor:
        """What one task's head reads of the trunk's output: (B, 512), or what `EncoderConfig.pooled_blocks` says."""
        rows, dtype = self.config.rows[task], next(self.heads.parameters()).dtype
        if rows is None:
            read = [self.branches(shared, task).mean(dim=(2, 3), dtype=dtype)]
        else:
            outputs = zip(self.branches.stages(shared, task), (rows.layer3, rows.layer4), strict=True)
            stages = [x[:, :, first:end] for x, (first, end) in outputs]
            read = [x.amax(dim=3).flatten(1).to(dtype) for x in stages]
            if rows.means:
                read += [x.mean(dim=3, dtype=dtype).flatten(1) for x in stages]
        if self.config.spectral_statistics and task == self.config.tasks - 1:
            read.append(spectral_statistics(spectrogram).to(dtype))
        return torch.cat(read, dim=1)

    def train(self, mode: bool | None = None) -> Encoder:
        """Training mode, or evaluation mode with False, as of any module.

        Raises:
            ConfigError: `train()` of a folded encoder; a mode that the module around one passes on is taken.
        """
        if mode is None and self.folded:
            said = "load it with mtslvr.load(..., fold=False)"
            raise ConfigError(f"this encoder is folded, so it cannot be trained; {said}")
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
        target = Path(folder)
        if self.folded:
            raise CheckpointError(f"{target}: a folded encoder cannot be saved; save the one it was folded from")
        state = {
            key: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
            for key, value in self.state_dict().items()
        }
        texts = {CONFIG_NAME: json.dumps(self.config.to_dict(), indent=2) + "\n"}
        if card is not None:
            texts[CARD_NAME] = card
        try:
            target.mkdir(parents=True, exist_ok=True)
            part = target / "saving.part"
            save_file(state, part, metadata={"format": "pt", "library": "mtslvr"})
            os.replace(part, target / WEIGHTS_NAME)
            for name, text in texts.items():
                part.write_text(text, encoding="utf-8")
                os.replace(part, target / name)
            shutil.copymode(target / CONFIG_NAME, target / WEIGHTS_NAME)  # safetensors lets the owner alone read it
        except (OSError, SafetensorError) as error:
            said = f"{target}: cannot write the checkpoint ({error}); choose a writable folder"
            raise CheckpointError(said) from None
        return target
