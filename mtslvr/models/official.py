"""An official .pt checkpoint, a bare state dict of the backbone, to an encoder."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import AdapterKind, EncoderConfig, FrontendConfig, Normalization
from ..errors import CheckpointError, ConfigError, one_line
from ..nn.encoder import Encoder
from .checkpoint import LARGEST_WEIGHTS, build

# Mean and standard deviation of the training waveforms, by the data set, with which the names of files begin.
_GLOBAL_STATISTICS = {"AS_BAL": (-0.00029522, 0.11652075), "FSD50K": (-4.8055477e-05, 0.068482772)}

# Official names to ours, one substitution after the other.
_RENAMED = [
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^conv1\.", "trunk.stem.conv."),
        (r"^bn1\.", "trunk.stem.norms.0."),
        (r"^end_bns\.(\d)\.0\.", r"branches.end_norms.\1."),
        (r"^fc\.", "heads.0."),
        (r"^fc_layers\.", "heads."),
        (r"^layer1\.", "trunk.layer1."),
        (r"^layer(?=[234]\.)", "branches.layer"),
        (r"\.conv([12])\.weight$", r".conv\1.conv.weight"),
        (r"\.bn([12])\.", r".conv\1.norms.0."),
        (r"\.downsample\.0\.", ".shortcut.conv."),
        (r"\.downsample\.1\.", ".shortcut.norms.0."),
        (r"\.parallel_conv\.", ".adapters."),
        (r"\.bns\.(\d)\.0\.conv\.0\.", r".adapters.\1.norm."),
        (r"\.bns\.(\d)\.0\.conv\.1\.", r".adapters.\1.conv."),
        (r"\.bns\.(\d)\.(?:1\.)?", r".norms.\1."),
    )
]


def official_config(state: Mapping[str, Tensor]) -> EncoderConfig:
    """Adapter, channels, tasks and heads of an official state dict, from its keys and shapes alone."""
    first, head = state.get("conv1.weight"), state.get("fc.weight", state.get("fc_layers.0.weight"))
    if first is None or head is None:
        raise CheckpointError("no conv1.weight and fc.weight or fc_layers.0.weight: not an MT-SLVR backbone")
    if first.ndim != 4:
        raise CheckpointError(f"conv1.weight is {first.ndim}-D: only the networks on spectrograms (dims=2) convert")
    if head.ndim != 2:
        raise CheckpointError(f"fc.weight or fc_layers.0.weight is {head.ndim}-D: not the head of an MT-SLVR backbone")
    try:
        return EncoderConfig(
            frontend=FrontendConfig(channels=first.shape[1]),
            adapter=_official_adapter(state),
            tasks=max(1, sum(bool(re.match(r"end_bns\.\d+\.0\.weight$", key)) for key in state)),
            heads=max(1, sum(bool(re.match(r"fc_layers\.\d+\.weight$", key)) for key in state)),
            head_dim=head.shape[0],
        )
    except ConfigError as error:
        raise CheckpointError(f"not an MT-SLVR backbone ({error})") from None


def _official_adapter(names: Iterable[str]) -> AdapterKind:
    text = "\n".join(names)
    if re.search(r"^fc\.weight$", text, re.MULTILINE):
        return AdapterKind.NONE
    if "end_bns." not in text:
        return AdapterKind.SPLIT
    if ".parallel_conv." in text:
        return AdapterKind.PARALLEL
    return AdapterKind.SERIES if ".bns.0.0.conv." in text else AdapterKind.BN


def rename_official(key: str) -> str:
    """Our name of an official tensor; an unknown one becomes none of ours, and strict loading names it."""
    for pattern, ours in _RENAMED:
        key = pattern.sub(ours, key)
    return key


def convert_official(
    path: str | os.PathLike[str],
    *,
    normalization: Normalization = Normalization.WINDOW,
    statistics: tuple[float, float] | None = None,
) -> Encoder:
    """An official `.pt` state dict as an encoder with the published front end.

    Args:
        path: loaded with `weights_only=True`: a pickle that would run code is refused.
        normalization: kept with the weights.
        statistics: mean and standard deviation for `Normalization.GLOBAL`; by default those of the data set that
            the file name tells.
    """
    source = Path(path)
    state = _load_state_dict(source)
    try:
        config = official_config(state)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    known = (values for data, values in _GLOBAL_STATISTICS.items() if source.name.startswith(f"{data}_"))
    statistics = statistics or next(known, None)
    if normalization is Normalization.GLOBAL and statistics is None:
        raise ConfigError(
            f"{source.name}: normalization 'global' needs the mean and standard deviation of the training waveforms, "
            "and this file name does not tell the data set; give --global-mean and --global-std"
        )
    mean, std = statistics or (0.0, 1.0)
    config = dataclasses.replace(config, normalization=normalization, global_mean=mean, global_std=std)
    return build(config, {rename_official(key): value for key, value in state.items()}, str(source))


def _load_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        if (size := _unpacked(path)) > LARGEST_WEIGHTS:
            raise CheckpointError(f"{path}: {size} bytes unpacked; an MT-SLVR backbone has at most {LARGEST_WEIGHTS}")
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        # Not the rest of what torch says, which is how to load it all the same.
        reason = re.search(r"(?<=WeightsUnpickler error: ).+?(?=\. |$)", str(error))
        said = one_line(reason[0]) if reason else "unreadable"
        said = f"refused, it holds more than tensors or is no checkpoint ({said}); only a plain state dict"
        raise CheckpointError(f"{path}: {said} can be converted") from None
    except Exception as error:  # whatever torch raises on bytes from anywhere: AssertionError, struct.error ...
        said = f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"{path}: not a torch checkpoint, or a broken one ({said}); get it again") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, expected a state dict of tensors")
    return dict(loaded)


def _unpacked(path: Path) -> int:
    """Bytes in memory: torch unpacks whatever a zip archive says that it holds."""
    if not zipfile.is_zipfile(path):
        return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return sum(info.file_size for info in archive.infolist())
