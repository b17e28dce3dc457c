"""A bundled name, a folder or a hub id to an encoder ready for inference; next: `extract`, `api`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from ..errors import ConfigError, HubError
from ..nn.encoder import Encoder
from ..workers import on_one_thread
from . import checkpoint

DEFAULT_MODEL = "parallel-simclr-v2"
_OF_0_2 = "parallel-simclr"  # the bundled weights of that version
# Every part begins with a letter, a digit or an underscore: no "..", no absolute path, no option.
_HUB_ID = re.compile(
    r"(?:hf-hub:)?(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w.+-]*(?:/\w[\w.+-]*)*))?", re.ASCII
)


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "auto",
    dtype: str = "float32",
    fold: bool = True,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Encoder:
    """An encoder in evaluation mode.

    Args:
        name: a bundled name, a folder with config.json and model.safetensors, or a hub repository "org/name",
            "org/name@revision", "hf-hub:org/name@revision"; None is the bundled default, "parallel-simclr-v2"
            since 0.3; it gives other embeddings than "parallel-simclr", that of 0.2. A Path is always a folder.
            A bundled name that is also another checkpoint's folder in the current directory is refused: write
            "./name" or Path("name") for the folder. A folder "org/name" is preferred to the hub's.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1" ...
        dtype: "float32", or "bfloat16" for trunk and branches: faster where the processor has bfloat16 instructions,
            and rounded to 8 bits. Embeddings are float32 either way.
        fold: fold adapters and batch norms into plain convolutions: the same embeddings, 1.74 times as fast as two
            passes of the unfolded network (one thread, batch 32; benchmarks/RESULTS.md); False keeps the network
            trainable.
        token: for private repositories; by default the one that `hf auth login` stored.
        cache_dir: of the hub; by default HF_HOME's.
        local_files_only: never ask the hub.

    Raises:
        HubError: unknown name, or weights that can be neither found nor downloaded.
        CheckpointError: files that do not make an encoder.
        ConfigError: unknown or absent device, unknown dtype, bfloat16 without folding or on a processor that has none.
    """
    target, half = resolve(device, dtype, fold)
    folder = find(name, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    return on_one_thread(_build, folder, fold, half).to(target)


def _build(folder: Path, fold: bool, half: bool) -> Encoder:
    encoder = checkpoint.load(folder)
    encoder = encoder.fold() if fold else encoder
    if half:
        encoder.trunk.bfloat16()
        encoder.branches.bfloat16()
    return encoder


def bundled() -> dict[str, Path]:
    """Bundled names and their folders: in the installed package, or in the repository of an editable install."""
    package = Path(__file__).parent.parent
    for root in (package / "weights", package.parent / "weights"):
        found = {path.parent.name: path.parent for path in sorted(root.glob(f"*/{checkpoint.WEIGHTS_NAME}"))}
        if found:
            return found
    return {}


def resolve(device: str | torch.device, dtype: str = "float32", fold: bool = True) -> tuple[torch.device, bool]:
    """The device that an encoder runs on, and whether in bfloat16; nothing is loaded for it."""
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"dtype={dtype!r}: unknown; use 'float32' or 'bfloat16'")
    half = dtype == "bfloat16"
    if half and not fold:
        raise ConfigError("dtype='bfloat16' with fold=False: folding needs float32 weights; leave fold=True")
    target = parse_device(device)
    if half and not computes_bfloat16(target):
        raise ConfigError(f"dtype='bfloat16': device {str(target)!r} has no bfloat16 arithmetic; use dtype='float32'")
    return target, half


def find(
    name: str | os.PathLike[str] | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a checkpoint, downloaded where needed; arguments and errors as of `load`."""
    names = bundled()
    if name is None:
        if DEFAULT_MODEL not in names:
            raise HubError(f"the bundled weights {DEFAULT_MODEL!r} are not in this installation; reinstall mtslvr")
        return names[DEFAULT_MODEL]
    text = os.fspath(name)
    folder = Path(os.path.expanduser(text))
    if isinstance(name, str) and text in names:
        if (folder / checkpoint.CONFIG_NAME).exists() and not folder.samefile(names[text]):
            raise HubError(
                f"{text!r}: both a bundled model and a checkpoint folder in {os.getcwd()}; for the folder give "
                f"'./{text}' or Path({text!r}), for the bundled model rename the folder or start elsewhere"
            )
        return names[text]
    if text and os.path.isdir(folder):
        return folder
    if text and os.path.isfile(folder):
        said = f"is a file, and a checkpoint is a folder with {checkpoint.CONFIG_NAME} and {checkpoint.WEIGHTS_NAME}"
        raise HubError(f"{text!r}: {said}; give its folder")
    if name == _OF_0_2:
        raise HubError(
            f"{text!r}: the weights of mtslvr 0.2, which this version does not have; {DEFAULT_MODEL!r} takes their "
            "place and gives other embeddings, which cannot be compared with those: embed everything again with it"
        )
    if not isinstance(name, str):
        raise HubError(f"{text!r}: no such folder; a Path is always a folder, give a model's name as a string")
    match = _HUB_ID.fullmatch(text) if ".." not in text else None
    if match is None:
        raise HubError(
            f"{text!r}: neither a bundled name ({', '.join(names) or 'none'}), nor a folder, nor a hub repository "
            "like 'org/name' or 'org/name@revision'"
        )
    # Hubs are asked by a library that takes a quarter of a second to import, and bundled weights need none of it.
    from huggingface_hub import constants

    from .remote import Remote, download

    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    return download(Remote(text, match["repo"], match["revision"] or "main", cache, token, local_files_only))


def computes_bfloat16(device: torch.device) -> bool:
    """Whether torch computes convolutions in bfloat16 there, and not by way of float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported())  # type: ignore[no-untyped-call,unused-ignore]
    if device.type == "cpu":
        vectors = torch.backends.cpu.get_cpu_capability()  # type: ignore[no-untyped-call,unused-ignore]
        return torch.backends.mkldnn.is_available() and vectors.startswith(("AVX512", "SVE"))  # type: ignore
    return True


def parse_device(device: str | torch.device) -> torch.device:
    """The torch device; "auto" is CUDA where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device={device!r}: unknown; use 'auto', 'cpu' or 'cuda'") from None
    if parsed.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device!r}: torch {torch.__version__} sees no CUDA device; use 'cpu'")
    try:
        torch.empty(0, device=parsed)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # torch lists all backends after it
        raise ConfigError(f"device={str(device)!r}: absent ({reason}); use 'cpu'") from None
    return parsed
