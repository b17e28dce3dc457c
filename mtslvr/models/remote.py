"""A hub repository's checkpoint in the hub's cache, or an error with its remedy; next: `hub`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from ..config import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
from ..errors import HubError, one_line
from .checkpoint import LARGEST_CARD, LARGEST_CONFIG, LARGEST_WEIGHTS, sha256

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LIBRARY: dict[str, Any] = {"library_name": "mtslvr", "library_version": metadata.version("mtslvr")}
_LARGEST = {CONFIG_NAME: LARGEST_CONFIG, WEIGHTS_NAME: LARGEST_WEIGHTS, CARD_NAME: LARGEST_CARD}
_REFUSED = (
    "the hub {hub} refuses it ({error}); check name and revision; for a private or gated repository ask for access on "
    "its page and log in with `hf auth login`"
)
_ABSENT = (
    "not in the cache {cache}, and {why}; check HF_ENDPOINT, proxy and login page of the network, or run `mtslvr "
    "download {name}` here with network, or `mtslvr download {name} --to FOLDER` on another machine, copy FOLDER here "
    "and load it"
)
_BROKEN = "download into {cache} failed ({error}); try again, or choose another cache with cache_dir or HF_HOME"


@dataclass(frozen=True)
class Remote:
    """A hub repository "org/name" at a branch, tag or commit, and how to get at its files; `name` is the user's."""

    name: str
    repo: str
    revision: str
    cache: Path
    token: str | bool | None = None
    local_files_only: bool = False

    @property
    def asked(self) -> dict[str, Any]:
        """What every request for the repository says."""
        return {"revision": self.revision, "token": self.token}

    def error(self, meaning: str, error: object = "", why: str = "") -> HubError:
        """The error to raise: `meaning`, with what stands in braces filled in, after repository and revision."""
        said = one_line(error, 400) if isinstance(error, str) else f"{type(error).__name__}: {one_line(error, 400)}"
        filled = meaning.format(cache=self.cache, hub=constants.ENDPOINT, error=said, why=why, name=self.name)
        return HubError(f"{self.repo}@{self.revision}: {filled}")


def download(remote: Remote) -> Path:
    """The cached folder of a repository's checkpoint, downloaded where needed and checked by sha256.

    A full commit that is in the cache is taken from there without a request. Where the hub cannot be reached, a
    branch or tag is what it was when it was last downloaded.
    """
    folder = _cached(remote)
    if remote.local_files_only and folder is None:
        raise remote.error(_ABSENT, why="local_files_only is set, so the hub is not asked")
    if folder is None or not (remote.local_files_only or _COMMIT.fullmatch(remote.revision)):
        folder = _up_to_date(remote, folder)
    _check_sha256(remote, folder / WEIGHTS_NAME)
    return folder


def _cached(remote: Remote) -> Path | None:
    """The folder with both files in the cache, without a request."""
    try:
        paths = [
            try_to_load_from_cache(remote.repo, name, cache_dir=remote.cache, revision=remote.revision)
            for name in (CONFIG_NAME, WEIGHTS_NAME)
        ]
    except HFValidationError as error:
        raise remote.error("not a valid hub id ({error})", error) from None
    except OSError:  # the cache is no folder; a download says so
        return None
    return Path(paths[0]).parent if isinstance(paths[0], str) and isinstance(paths[1], str) else None


def _up_to_date(remote: Remote, cached: Path | None) -> Path:
    """The folder of what the hub has now, or of what the cache has where the hub gives no answer."""
    # A download of the library tries for minutes to reach a hub that does not answer, and takes files of any size.
    try:
        commit = _present_commit(remote)
    except HubError:
        raise
    except Exception as error:  # those of httpx or httpx2, by the version of the library, among them
        if cached is not None and not isinstance(error, RevisionNotFoundError):
            return cached
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        if status in (401, 403, 404) or isinstance(error, LocalTokenNotFoundError):
            raise remote.error(_REFUSED, error) from None
        why = f"the hub {constants.ENDPOINT} gives no answer ({type(error).__name__}: {one_line(error, 400)})"
        if isinstance(error, OfflineModeIsEnabled):
            why = "HF_HUB_OFFLINE is set, so the hub is not asked"
        raise remote.error(_ABSENT, why=why) from None
    if cached is not None and cached.name == commit:
        return cached
    try:
        folder = snapshot_download(
            remote.repo, allow_patterns=list(_LARGEST), cache_dir=remote.cache, **remote.asked, **_LIBRARY
        )
    except Exception as error:  # as above
        raise remote.error(_BROKEN, error) from None
    if not (Path(folder) / WEIGHTS_NAME).is_file():  # the hub went between question and download
        raise remote.error(_BROKEN, f"{WEIGHTS_NAME} did not come")
    return Path(folder)


def _present_commit(remote: Remote) -> str:
    """The commit that the revision is now."""
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    info = HfApi(**_LIBRARY).model_info(remote.repo, timeout=timeout, files_metadata=True, **remote.asked)
    if _COMMIT.fullmatch(info.sha or "") is None:
        raise OSError(f"it does not answer as a hub does, commit {info.sha!r}; check HF_ENDPOINT")
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    for name, largest in _LARGEST.items():
        if name not in sizes and name != CARD_NAME:
            lacks = f"no {name} in it, so not an mtslvr checkpoint; only safetensors are loaded"
            raise remote.error(f"{lacks} (official .pt files: `mtslvr convert`)")
        if sizes.get(name, 0) > largest:
            said = f"{name} has {sizes[name]} bytes, an mtslvr checkpoint's at most {largest}"
            raise remote.error(f"{said}; not downloaded: check the name")
    return str(info.sha)


def _check_sha256(remote: Remote, path: Path) -> None:
    """Refuse weights that the hub did not name: the cache links to a file that has the name of its ETag, a sha256."""
    try:
        expected = os.path.basename(os.readlink(path))
    except OSError:  # on systems without links nothing is known
        return
    if re.fullmatch(r"[0-9a-f]{64}", expected) and (found := sha256(path)) != expected:
        raise remote.error(
            "{error} and download again; if that does not help, the file on the hub was changed",
            f"{path.name} has sha256 {found}, expected {expected}; refused. Delete {path.parents[2]}",
        )
