"""A bundled name, a folder or a hub id to an encoder ready for inference; next: `extract`, `api`."""

from __future__ import annotations

import functools
import os
import re
from importlib import metadata
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from . import checkpoint
from .encoder import Encoder
from .errors import ConfigError, HubError

DEFAULT_MODEL = "parallel-simclr"
_HUB_ID = re.compile(r"^(?:hf-hub:)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?$")


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "auto",
    fold: bool = True,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Encoder:
    """An encoder in evaluation mode.

    Args:
        name: a bundled name, a folder with config.json and model.safetensors, or a hub repository "org/name",
            "org/name@revision", "hf-hub:org/name@revision"; None is the bundled default.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1" ...
        fold: fold adapters and batch norms into plain convolutions: the same embeddings, about twice as fast;
            False keeps the network trainable.
        token: for private repositories; by default the one that `hf auth login` stored.
        cache_dir: of the hub; by default HF_HOME's.
        local_files_only: never ask the hub.
    Raises:
        HubError: unknown name, or weights that can be neither found nor downloaded.
        CheckpointError: files that do not make an encoder.
        ConfigError: unknown or absent device.
    """
    folder = find(name, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    encoder = checkpoint.load(folder)
    return (encoder.fold() if fold else encoder).to(parse_device(device))


@functools.cache
def default_encoder() -> Encoder:
    """The bundled default, loaded once."""
    return load()


def bundled() -> dict[str, Path]:
    """Bundled names and their folders: in the installed package, or in the repository of an editable install."""
    here = Path(__file__).parent
    for root in (here / "weights", here.parent / "weights"):
        found = {path.parent.name: path.parent for path in sorted(root.glob(f"*/{checkpoint.WEIGHTS_NAME}"))}
        if found:
            return found
    return {}


def find(
    name: str | os.PathLike[str] | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a checkpoint; see `load`."""
    names = bundled()
    if name is None:
        name = DEFAULT_MODEL
        if name not in names:
            raise HubError(f"the bundled weights {name!r} are not in this installation; reinstall mtslvr")
    if str(name) in names:
        return names[str(name)]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    match = _HUB_ID.match(str(name)) if isinstance(name, str) else None
    if match is None or ".." in str(name):
        raise HubError(
            f"{os.fspath(name)!r}: neither a bundled name ({', '.join(names) or 'none'}), nor a folder, "
            "nor a hub repository like 'org/name' or 'org/name@revision'"
        )
    return download(match["repo"], match["revision"], token, cache_dir, local_files_only)


def download(
    repo: str,
    revision: str | None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The cached folder of a hub repository's checkpoint, downloaded where needed.

    Raises:
        HubError: names repository, revision, cache and remedy.
    """
    where = f"{repo}@{revision or 'main'}"
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    try:
        files = [
            hf_hub_download(
                repo,
                filename,
                revision=revision,
                token=token,
                cache_dir=cache,
                local_files_only=local_files_only,
                library_name="mtslvr",
                library_version=metadata.version("mtslvr"),
            )
            for filename in (checkpoint.CONFIG_NAME, checkpoint.WEIGHTS_NAME)
        ]
    except GatedRepoError:
        raise HubError(f"{where}: gated; ask for access on the hub and log in with `hf auth login`") from None
    except RevisionNotFoundError:
        raise HubError(f"{where}: no such revision; check the name after '@'") from None
    except RepositoryNotFoundError:
        raise HubError(
            f"{where}: no such repository, or a private one; check the name or log in with `hf auth login`"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise HubError(
            f"{where}: not in the cache {cache} and the hub cannot be reached; connect once, or put config.json "
            "and model.safetensors into a folder and load that folder"
        ) from None
    except EntryNotFoundError as error:
        raise HubError(f"{where}: not an mtslvr checkpoint ({str(error).splitlines()[0]})") from None
    except HFValidationError as error:
        raise HubError(f"{where}: not a valid hub id ({error})") from None
    except (HfHubHTTPError, OSError) as error:
        raise HubError(f"{where}: download into {cache} failed ({str(error).splitlines()[0]}); try again") from None
    return Path(files[-1]).parent


def parse_device(device: str | torch.device) -> torch.device:
    """The torch device; "auto" is CUDA where there is one.

    Raises:
        ConfigError: unknown, or CUDA asked for and absent.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device={device!r}: unknown; use 'auto', 'cpu' or 'cuda'") from None
    if parsed.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device!r}: torch {torch.__version__} sees no CUDA device; use 'cpu'")
    return parsed
