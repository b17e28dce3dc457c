"""A folder of config.json and model.safetensors to an encoder and back; official .pt files in; next: `hub`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import re
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config import FORMAT_VERSION, AdapterKind, EncoderConfig, FrontendConfig, Normalization
from ..errors import CheckpointError, ConfigError, one_line
from ..nn.encoder import Encoder

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
LARGEST_CONFIG = 1 << 20
LARGEST_WEIGHTS = 1 << 29  # several times what the largest valid config takes in float32

# The values of a config.json of one format to those of the next, by the format that they come from.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

PathLike = str | os.PathLike[str]


def save(encoder: Encoder, folder: PathLike, *, dtype: torch.dtype = torch.float16, card: str | None = None) -> Path:
    """Write config.json and model.safetensors (and README.md, the model card), each atomically.

    Args:
        encoder: unfolded.
        folder: made where missing.
        dtype: of the stored floating-point tensors.
        card: text of README.md.
    Returns:
        The folder.
    Raises:
        CheckpointError: folded encoder, or the folder cannot be written.
    """
    if encoder.folded:
        raise CheckpointError(f"{folder}: a folded encoder cannot be saved; save the one it was folded from")
    target = Path(folder)
    state = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for key, value in encoder.state_dict().items()
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
        part = target / (WEIGHTS_NAME + ".part")
        save_file(state, part, metadata={"format": "pt", "library": "mtslvr"})
        os.replace(part, target / WEIGHTS_NAME)
        _write_text(target / CONFIG_NAME, json.dumps(encoder.config.to_dict(), indent=2) + "\n")
        shutil.copymode(target / CONFIG_NAME, target / WEIGHTS_NAME)  # safetensors lets the owner alone read it
        if card is not None:
            _write_text(target / CARD_NAME, card)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{target}: cannot write the checkpoint ({error}); choose a writable folder") from None
    return target


def load(folder: PathLike) -> Encoder:
    """The encoder of a checkpoint folder: on the CPU, unfolded, in evaluation mode, float32.

    Raises:
        CheckpointError: a missing or unreadable file, or missing, extra or mis-shaped tensors.
    """
    source = Path(folder)
    config = read_config(source / CONFIG_NAME)
    path = source / WEIGHTS_NAME
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; a checkpoint folder holds {CONFIG_NAME} and {WEIGHTS_NAME}")
    if path.stat().st_size > LARGEST_WEIGHTS:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes; weights have at most {LARGEST_WEIGHTS}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file ({one_line(error)}); download or convert it again"
        ) from None
    return build(config, state, str(path))


def read_config(path: Path) -> EncoderConfig:
    """The config.json of a checkpoint folder.

    Raises:
        CheckpointError: missing, too large, not JSON, an unknown or repeated key, a value outside its range, or a
            format that this version does not read.
    """
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes; a config has at most {LARGEST_CONFIG}")
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_distinct)
        return EncoderConfig.from_dict(_upgrade(values))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file; a checkpoint folder holds {CONFIG_NAME} and {WEIGHTS_NAME}"
        ) from None
    except ConfigError as error:
        said = str(error)  # quotes values, which may be as long as the file
        raise CheckpointError(f"{path}: {said if len(said) <= 1000 else said[:1000] + ' ...'}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file ({error})") from None


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = [repr(key) for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ConfigError(f"config: key {_some(repeated)} given twice; keep one")
    return values


def _upgrade(values: Any) -> Any:
    """The values of an older config.json in the present format; all others as they are."""
    while isinstance(values, dict) and type(version := values.get("format_version")) is int:
        if version >= FORMAT_VERSION:
            break
        if version not in UPGRADES:
            readable = " to ".join(map(str, sorted({min(UPGRADES, default=FORMAT_VERSION), FORMAT_VERSION})))
            raise ConfigError(
                f"config: format_version={version}: this mtslvr reads {readable}; "
                "convert the checkpoint again from its source with `mtslvr convert`, or save it anew"
            )
        values = {**UPGRADES[version](values), "format_version": version + 1}
    return values


def build(config: EncoderConfig, state: Mapping[str, Tensor], origin: str) -> Encoder:
    """An encoder with exactly these weights.

    Raises:
        CheckpointError: missing, extra or mis-shaped tensors, each named.
    """
    with torch.device("meta"):
        encoder = Encoder(config)
    _check_tensors(encoder.state_dict(), state, origin)
    weights = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    encoder.load_state_dict(weights, strict=True, assign=True)
    return encoder.eval()


def _check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], origin: str) -> None:
    shapes = [
        f"{k} is {tuple(found[k].shape)}, expected {tuple(expected[k].shape)}"
        for k in expected.keys() & found.keys()
        if found[k].shape != expected[k].shape
    ]
    kinds = [
        f"{k} is {found[k].dtype}, expected {expected[k].dtype}"
        for k in expected.keys() & found.keys()
        if _kind(found[k]) != _kind(expected[k])
    ]
    problems = {
        "missing tensor": expected.keys() - found.keys(),
        "extra tensor": found.keys() - expected.keys(),
        "mis-shaped tensor": shapes,
        "tensor of another kind": kinds,
    }
    said = [f"{_some(names)}: {what}" for what, names in problems.items() if names]
    if said:
        raise CheckpointError(f"{origin}: {'; '.join(said)}; the config.json and the weights do not belong together")


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype is torch.bool


def _some(names: Iterable[str], most: int = 3) -> str:
    ordered = [one_line(name) for name in sorted(names)]
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


# The authors' checkpoints: a bare state dict of the backbone, facts in the file name.

_NAME = re.compile(
    r"^(?P<data>AS_BAL|FSD50K)_(?P<contrastive>simsiam|simclrv1|cpc)_(?P<predictive>trans|param)"
    r"_(?P<weight>[0-9e_-]+?)_(?P<adapter>None|split|bn|series|parallel)_(?P<dims>[12])_(?P<channels>[13])"
    r"_(?P<excluded>(?:[a-z]+(?:_[a-z]+)*__)*)_(?P<batch>[0-9]+)_(?P<rate>[0-9_]+(?:e-[0-9]+)?)"
    r"_(?P<time>[0-9]{8}-[0-9]{6})(?:\.pt)?$"
)
# Mean and standard deviation of the training waveforms, by data set.
_GLOBAL_STATISTICS = {"AS_BAL": (-0.00029522, 0.11652075), "FSD50K": (-4.8055477e-05, 0.068482772)}

_BLOCK = r"^layer(?P<layer>[1-4])\.(?P<block>\d+)\."
_RENAME = [
    (re.compile(r"^conv1\.weight$"), "trunk.stem.conv.weight"),
    (re.compile(r"^bn1\.(?P<leaf>\w+)$"), "trunk.stem.norms.0.{leaf}"),
    (re.compile(r"^end_bns\.(?P<task>\d)\.0\.(?P<leaf>\w+)$"), "branches.end_norms.{task}.{leaf}"),
    (re.compile(r"^fc\.(?P<leaf>\w+)$"), "heads.0.{leaf}"),
    (re.compile(r"^fc_layers\.(?P<head>\d)\.(?P<leaf>\w+)$"), "heads.{head}.{leaf}"),
    (re.compile(_BLOCK + r"conv(?P<conv>[12])\.(?:conv\.)?weight$"), "{part}.conv{conv}.conv.weight"),
    (re.compile(_BLOCK + r"bn(?P<conv>[12])\.(?P<leaf>\w+)$"), "{part}.conv{conv}.norms.0.{leaf}"),
    (re.compile(_BLOCK + r"downsample\.0\.weight$"), "{part}.shortcut.conv.weight"),
    (re.compile(_BLOCK + r"downsample\.1\.(?P<leaf>\w+)$"), "{part}.shortcut.norms.0.{leaf}"),
    (
        re.compile(_BLOCK + r"conv(?P<conv>[12])\.parallel_conv\.(?P<task>\d)\.conv\.weight$"),
        "{part}.conv{conv}.adapters.{task}.conv.weight",
    ),
    (
        re.compile(_BLOCK + r"conv(?P<conv>[12])\.bns\.(?P<task>\d)\.0\.conv\.0\.(?P<leaf>\w+)$"),
        "{part}.conv{conv}.adapters.{task}.norm.{leaf}",
    ),
    (
        re.compile(_BLOCK + r"conv(?P<conv>[12])\.bns\.(?P<task>\d)\.0\.conv\.1\.weight$"),
        "{part}.conv{conv}.adapters.{task}.conv.weight",
    ),
    (
        re.compile(_BLOCK + r"conv(?P<conv>[12])\.bns\.(?P<task>\d)\.(?:1\.)?(?P<leaf>[a-z_]+)$"),
        "{part}.conv{conv}.norms.{task}.{leaf}",
    ),
]


@dataclass(frozen=True)
class Converted:
    """An encoder made from an official checkpoint, and what is known of its origin."""

    encoder: Encoder
    facts: dict[str, str]
    notes: list[str]


def parse_official_name(name: str) -> dict[str, str]:
    """The facts in the file name of an official checkpoint; empty where it has another form."""
    match = _NAME.match(name)
    return {k: v for k, v in match.groupdict().items() if v} if match else {}


def official_config(state: Mapping[str, Tensor]) -> EncoderConfig:
    """Adapter, channels, tasks and heads of an official state dict, from its keys and shapes alone.

    Raises:
        CheckpointError: not the keys of a two-dimensional MT-SLVR ResNet-18.
    """
    first = state.get("conv1.weight")
    if first is None or ("fc.weight" not in state and "fc_layers.0.weight" not in state):
        raise CheckpointError("no conv1.weight and fc.weight or fc_layers.0.weight: not an MT-SLVR backbone")
    if first.ndim != 4:
        raise CheckpointError(f"conv1.weight is {first.ndim}-D: only the networks on spectrograms (dims=2) convert")
    keys = state.keys()
    head = state["fc.weight"] if "fc.weight" in state else state["fc_layers.0.weight"]
    if head.ndim != 2:
        raise CheckpointError(f"fc.weight or fc_layers.0.weight is {head.ndim}-D: not the head of an MT-SLVR backbone")
    heads = max(1, sum(bool(re.match(r"fc_layers\.\d+\.weight$", k)) for k in keys))
    tasks = max(1, sum(bool(re.match(r"end_bns\.\d+\.0\.weight$", k)) for k in keys))
    try:
        return EncoderConfig(
            frontend=FrontendConfig(channels=first.shape[1]),
            adapter=_official_adapter(keys),
            tasks=tasks,
            heads=heads,
            head_dim=head.shape[0],
        )
    except ConfigError as error:
        raise CheckpointError(f"not an MT-SLVR backbone ({error})") from None


def _official_adapter(keys: Iterable[str]) -> AdapterKind:
    names = set(keys)
    if "fc.weight" in names:
        return AdapterKind.NONE
    if not any(k.startswith("end_bns.") for k in names):
        return AdapterKind.SPLIT
    if any(".parallel_conv." in k for k in names):
        return AdapterKind.PARALLEL
    return AdapterKind.SERIES if any(".bns.0.0.conv." in k for k in names) else AdapterKind.BN


def rename_official(key: str) -> str:
    """Our name of an official tensor; an unknown one stays as it is, and strict loading names it."""
    for pattern, ours in _RENAME:
        match = pattern.match(key)
        if match:
            groups = match.groupdict()
            if "layer" in groups:
                where = "trunk" if groups["layer"] == "1" else "branches"
                groups["part"] = f"{where}.layer{groups['layer']}.{groups['block']}"
            return ours.format(**groups)
    return key


def convert_official(
    path: PathLike,
    *,
    normalization: Normalization = Normalization.WINDOW,
    statistics: tuple[float, float] | None = None,
) -> Converted:
    """An official `.pt` state dict as an encoder with the published front end.

    Args:
        path: loaded with `weights_only=True`: a pickle that would run code is refused.
        normalization: kept with the weights.
        statistics: mean and standard deviation for `Normalization.GLOBAL`; by default those of the data set that
            the file name tells.
    Raises:
        CheckpointError: missing, unsafe or unreadable file, or not an MT-SLVR backbone.
        ConfigError: global normalisation without known statistics.
    """
    source = Path(path)
    state = _load_state_dict(source)
    facts = parse_official_name(source.name)
    try:
        config = official_config(state)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    statistics = statistics or _GLOBAL_STATISTICS.get(facts.get("data", ""))
    if normalization is Normalization.GLOBAL and statistics is None:
        raise ConfigError(
            f"{source.name}: normalization 'global' needs the mean and standard deviation of the training waveforms, "
            "and this file name does not tell the data set; give --global-mean and --global-std"
        )
    mean, std = statistics or (0.0, 1.0)
    config = dataclasses.replace(config, normalization=normalization, global_mean=mean, global_std=std)
    encoder = build(config, {rename_official(k): v for k, v in state.items()}, str(source))
    return Converted(encoder, facts, _contradictions(facts, config))


def _contradictions(facts: Mapping[str, str], config: EncoderConfig) -> list[str]:
    found = {"adapter": config.adapter.value, "channels": str(config.frontend.channels)}
    return [
        f"the file name says {key} {facts[key]}, the tensors say {value}; the tensors are used"
        for key, value in found.items()
        if key in facts and facts[key].lower() != value
    ]


def _load_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        if (size := _unpacked(path)) > LARGEST_WEIGHTS:
            raise CheckpointError(f"{path}: {size} bytes unpacked; an MT-SLVR backbone has at most {LARGEST_WEIGHTS}")
        with _memory_limit(LARGEST_WEIGHTS + LARGEST_WEIGHTS // 2):
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        # Not the rest of what torch says, which is how to load it all the same.
        reason = re.search(r"GLOBAL \S+", str(error)) or re.search(
            r"(?<=WeightsUnpickler error: ).+?(?=\. |$)", str(error)
        )
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors or is no checkpoint "
            f"({one_line(reason[0]) if reason else 'unreadable'}); only a plain state dict can be converted"
        ) from None
    except Exception as error:  # whatever torch raises on bytes from anywhere: AssertionError, struct.error ...
        said = f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"{path}: not a torch checkpoint, or a broken one ({said}); get it again") from None
    if not isinstance(loaded, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in loaded.items()):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, expected a state dict of tensors")
    return dict(loaded)


@contextlib.contextmanager
def _memory_limit(more: int) -> Iterator[None]:
    """Let this process, all threads of it, take at most `more` bytes than it has, on Linux: else MemoryError.

    A pickle of tensors alone can still ask for gigabytes, and an archive can tell torch another size than Python.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _unpacked(path: Path) -> int:
    """Bytes in memory: torch unpacks whatever a zip archive says that it holds."""
    if not zipfile.is_zipfile(path):
        return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return sum(info.file_size for info in archive.infolist())


def _is_plain(value: object) -> bool:
    """A tensor with numbers in it: neither sparse, nor quantised, nor without storage."""
    if not isinstance(value, Tensor):
        return False
    return value.layout is torch.strided and not value.is_quantized and value.device.type == "cpu"
