"""A folder of config.json and model.safetensors to an encoder and back; next: `official`, `hub`."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..config import CARD_NAME as CARD_NAME
from ..config import CONFIG_NAME as CONFIG_NAME
from ..config import WEIGHTS_NAME as WEIGHTS_NAME
from ..config import EncoderConfig
from ..errors import CheckpointError, ConfigError, one_line
from ..nn.encoder import Encoder

LARGEST_CONFIG = 1 << 20
LARGEST_WEIGHTS = 1 << 29  # several times what the largest valid config takes in float32
LARGEST_CARD = 1 << 20

PathLike = str | os.PathLike[str]

save = Encoder.save  # the inverse of `load`


def load(folder: PathLike) -> Encoder:
    """The encoder of a checkpoint folder: on the CPU, unfolded, in evaluation mode, float32."""
    source = Path(folder)
    config = read_config(source / CONFIG_NAME)
    path = source / WEIGHTS_NAME
    if not path.is_file():
        raise _missing(path)
    if path.stat().st_size > LARGEST_WEIGHTS:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes; weights have at most {LARGEST_WEIGHTS}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        said = f"not a safetensors file ({one_line(error)}); download or convert it again"
        raise CheckpointError(f"{path}: {said}") from None
    return build(config, state, str(path))


def read_config(path: Path) -> EncoderConfig:
    """The config.json of a checkpoint folder."""
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes; a config has at most {LARGEST_CONFIG}")
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_distinct)
        return EncoderConfig.from_dict(values)
    except FileNotFoundError:
        raise _missing(path) from None
    except ConfigError as error:  # quotes values, which may be as long as the file
        raise CheckpointError(f"{path}: {one_line(error, 1000)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file ({error})") from None


def _missing(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: no such file; a checkpoint folder holds {CONFIG_NAME} and {WEIGHTS_NAME}")


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ConfigError(f"config: key {one_line(repr(repeated[0]))} given twice; keep one")
    return dict(pairs)


def build(config: EncoderConfig, state: Mapping[str, Tensor], origin: str) -> Encoder:
    """An encoder with exactly these weights."""
    with torch.device("meta"):
        encoder = Encoder(config)
    expected = encoder.state_dict()
    try:
        for name, value in state.items():
            if name in expected and value.is_floating_point() != expected[name].is_floating_point():
                raise RuntimeError(f"{name} is {value.dtype}, expected {expected[name].dtype}")
        weights = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        encoder.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        said = one_line(error, 600).rstrip(".")
        raise CheckpointError(f"{origin}: {said}; the config.json and the weights do not belong together") from None
    return encoder.eval()
