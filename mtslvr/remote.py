"""Files of a hub repository into the hub's cache, checked, or an error with its remedy; next: `hub`."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # public, and not marked as such

from . import checkpoint, registry
from .errors import HubError, one_line

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ETAG = re.compile(r"[\w+=:-][\w.+=:-]*", re.ASCII)  # becomes a file name in the cache
_LARGEST = {
    checkpoint.CONFIG_NAME: checkpoint.LARGEST_CONFIG,
    checkpoint.WEIGHTS_NAME: checkpoint.LARGEST_WEIGHTS,
    checkpoint.CARD_NAME: registry.LARGEST_CARD,
}


@dataclass(frozen=True)
class Remote:
    """A hub repository at a revision, and how to get at its files.

    Attributes:
        name: as the user gave it.
        repo: "org/name".
        revision: branch, tag or commit.
        cache: folder of the hub's cache.
        token: see `load`.
        local_files_only: see `load`.
        sha256: of files, by name, where the registry knows it.
    """

    name: str
    repo: str
    revision: str
    cache: Path
    token: str | bool | None = None
    local_files_only: bool = False
    sha256: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"


def download(remote: Remote, *, card: bool = False) -> Path:
    """The cached folder of a repository's checkpoint, downloaded where needed and checked by sha256.

    Files of a full commit that are in the cache are taken from there without a request. Where the hub cannot be
    reached, a branch or tag is what it was when it was last downloaded.

    Raises:
        HubError: names repository, revision, cache and remedy.
    """
    config = _fetch(remote, remote, checkpoint.CONFIG_NAME)
    # The cache has a folder for each commit: all files come from the same one, even if the branch moves on.
    pinned = replace(remote, revision=config.parent.name)
    weights = _fetch(remote, pinned, checkpoint.WEIGHTS_NAME)
    for path in (config, weights):
        _check_sha256(remote, path)
    if card:
        with contextlib.suppress(HubError):  # not needed for anything but reading
            _fetch(remote, pinned, checkpoint.CARD_NAME)
    return weights.parent


def _fetch(remote: Remote, pinned: Remote, filename: str) -> Path:
    """One file in the cache, from there or from the hub; errors name `remote`."""
    needless = _COMMIT.fullmatch(pinned.revision) is not None and _in_cache(pinned, filename)
    # hf_hub_download goes on for minutes with a hub that cannot be reached, so ask once beforehand.
    refusal = None if pinned.local_files_only or needless else _ask(remote, pinned, filename)
    try:
        return Path(
            hf_hub_download(
                pinned.repo,
                filename,
                revision=pinned.revision,
                token=pinned.token,
                cache_dir=pinned.cache,
                local_files_only=pinned.local_files_only or refusal is not None,
                library_name="mtslvr",
                library_version=metadata.version("mtslvr"),
                tqdm_class=_Progress,
            )
        )
    except LocalEntryNotFoundError as error:
        raise refusal or _explain(remote, filename, error) from None
    except Exception as error:  # those of httpx or httpx2, by the version of huggingface_hub, among them
        raise _explain(remote, filename, error, started=True) from None


class _Progress(tqdm):
    """The hub's progress bar, which ends a download that otherwise would not: started anew again and again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # `initial` is what earlier attempts brought: huggingface_hub 1.3 has a bar for each, 2 has one for all.
        self._left: float = 4 * (kwargs.get("total") or checkpoint.LARGEST_WEIGHTS) - (kwargs.get("initial") or 0)
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]  # tqdm has no types

    def update(self, n: float | None = 1) -> Any:
        """Count bytes."""
        self._left -= max(n or 0, 0)
        if self._left < 0:
            raise OSError("four times the size of the file came, and not the file")
        return super().update(n)


def _in_cache(pinned: Remote, filename: str) -> bool:
    try:
        return isinstance(try_to_load_from_cache(pinned.repo, filename, pinned.cache, pinned.revision), str)
    except (HFValidationError, OSError):  # said by the download
        return False


def _ask(remote: Remote, pinned: Remote, filename: str) -> HubError | None:
    """Whether the hub has a file for us; where not, the error to raise unless the cache has it.

    Raises:
        HubError: an answer that the cache cannot make good.
    """
    try:
        found = get_hf_file_metadata(
            hf_hub_url(pinned.repo, filename, revision=pinned.revision),
            token=pinned.token,
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            library_name="mtslvr",
            library_version=metadata.version("mtslvr"),
        )
    except (RevisionNotFoundError, EntryNotFoundError, HFValidationError) as error:
        raise _explain(remote, filename, error) from None
    except Exception as error:  # as above
        return _explain(remote, filename, error)
    if _COMMIT.fullmatch(found.commit_hash or "") is None or _ETAG.fullmatch(found.etag or "") is None:
        return HubError(
            f"{remote}: {constants.ENDPOINT} does not answer as a hub does (X-Repo-Commit {found.commit_hash!r}, "
            f"ETag {found.etag!r}); check HF_ENDPOINT, proxy and login page of the network"
        )
    largest = _LARGEST[filename]
    if found.size is not None and found.size > largest:
        raise HubError(
            f"{remote}: {filename} has {found.size} bytes, an mtslvr checkpoint's at most {largest}; "
            "not downloaded: check the name"
        )
    return None


def _explain(remote: Remote, filename: str, error: Exception, started: bool = False) -> HubError:
    """What an error of huggingface_hub means for the user; `started`: after the hub had answered."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    # By class, the special one first.
    if isinstance(error, GatedRepoError):
        said = "gated; ask for access on its page on the hub and log in with `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        said = "no such revision; check the name after '@'"
    elif isinstance(error, RepositoryNotFoundError) or (status == 401 and "Invalid credentials" not in str(error)):
        said = "no such repository, or a private one; check the name or log in with `hf auth login`"
    elif isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        which = "local_files_only is set" if remote.local_files_only else "HF_HUB_OFFLINE is set"
        said = _not_cached(remote, f"{which}, so the hub is not asked")
    elif isinstance(error, EntryNotFoundError):
        said = f"no {filename} in it, so not an mtslvr checkpoint; only safetensors are loaded"
        if filename == checkpoint.WEIGHTS_NAME:
            said += " (official .pt files: `mtslvr convert`)"
    elif isinstance(error, HFValidationError):
        said = f"not a valid hub id ({_first_line(error)})"
    elif isinstance(error, LocalTokenNotFoundError):
        said = "token=True, and no token is stored; log in with `hf auth login`"
    elif status in (401, 403):
        said = f"access refused ({_first_line(error)}); check the token, log in with `hf auth login`"
    elif started:
        said = (
            f"download of {filename} into {remote.cache} failed ({_first_line(error)}); try again, or choose "
            "another cache with cache_dir or HF_HOME"
        )
    elif status is not None:
        said = _not_cached(remote, f"the hub {constants.ENDPOINT} fails ({_first_line(error)})", "try again later, or")
    else:
        said = _not_cached(remote, f"the hub {constants.ENDPOINT} cannot be reached ({_first_line(error)})")
    return HubError(f"{remote}: {said}")


def _not_cached(remote: Remote, why: str, first: str = "either") -> str:
    return (
        f"not in the cache {remote.cache}, and {why}; {first} run `mtslvr download {remote.name}` here with network, "
        f"or `mtslvr download {remote.name} --to FOLDER` on another machine, copy FOLDER here and load it"
    )


def _first_line(error: Exception) -> str:
    said = one_line(str(error).strip().partition("\n")[0])  # what a server says, too
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _check_sha256(remote: Remote, path: Path) -> None:
    """Refuse a file that is not the registered one, or not the one that the hub named.

    Raises:
        HubError: with both sums.
    """
    expected = remote.sha256.get(path.name) or _named_sha256(path)
    if expected is None or (found := checkpoint.sha256(path)) == expected:
        return
    raise HubError(
        f"{remote}: {path.name} has sha256 {found}, expected {expected}; refused. "
        f"Delete {path.parents[2]} and download again; if that does not help, the file on the hub was changed"
    )


def _named_sha256(path: Path) -> str | None:
    """The cache links to a blob named by its ETag: for large files, sha256."""
    try:
        name = os.path.basename(os.readlink(path))
    except OSError:  # no link, on systems without
        return None
    return name if _SHA256.fullmatch(name) else None
