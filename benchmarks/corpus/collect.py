"""Sources of the table to files: packages, repositories and archives are fetched once, then read in memory."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .render import render_soundfont, speak

Source = dict[str, Any]
ZIPS = (".zip", ".pk3", ".wz")  # archives that games keep their audio in


class SourceError(Exception):
    """A source that is gone, has changed or cannot be made here; the others go on."""


def fetch(source: Source, cache: Path, mirrors: Path | None, accept_changed: bool) -> Path:
    """Bring a source to `cache`, unless it is there.

    Args:
        source: a row of the table.
        cache: folder of downloads.
        mirrors: folder of git repositories named OWNER+NAME, or holding one named repo; taken before a clone.
        accept_changed: take a file whose sum is another than the table's.
    Returns:
        The package, archive or git directory.
    Raises:
        SourceError: gone, or changed.
    """
    if source["kind"] == "git":
        return _repository(source, cache, mirrors)
    folder = cache / source["kind"]
    folder.mkdir(parents=True, exist_ok=True)
    found = _cached(folder, source)
    if found is None:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = _download(source, Path(place))
            found = folder / made.name
            made.replace(found)
    digest = hashlib.sha256()
    with open(found, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != source.get("sha256") and not accept_changed:
        raise SourceError(
            f"changed: {found.name} has sha256 {digest.hexdigest()}, the table says {source.get('sha256')}; "
            "--accept-changed takes it as it is"
        )
    return found


def _cached(folder: Path, source: Source) -> Path | None:
    stem = re.escape(source["origin"].rsplit("/", 1)[-1])
    names = [path for path in folder.iterdir() if path.is_file() and re.match(rf"{stem}([_-]\d.*)?$", path.name)]
    return max(names, key=lambda path: path.stat().st_mtime) if names else None


def _download(source: Source, place: Path) -> Path:
    kind, origin = source["kind"], source["origin"]
    if kind == "archive":
        target = place / origin.rsplit("/", 1)[-1]
        try:
            with urllib.request.urlopen(origin, timeout=60) as answer, open(target, "wb") as file:
                shutil.copyfileobj(answer, file)
        except (OSError, ValueError) as error:
            raise SourceError(f"gone: {origin} ({error})") from None
        return target
    command = {
        "deb": ["apt-get", "-q", "download", origin],
        "npm": ["npm", "pack", f"{origin}@{source.get('version')}"],
    }
    run(command[kind], place)
    made = list(place.iterdir())
    if not made:
        raise SourceError(f"gone: {' '.join(command[kind])} brought nothing")
    return made[0]


def run(command: list[str], place: Path) -> None:
    """Run a program in a folder.

    Raises:
        SourceError: it failed; its last line says why.
        OSError: there is no space left.
    """
    try:
        subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise SourceError(f"{command[0]}: no such program; install it") from None
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines() or ["no message"]
        if "No space left" in lines[-1]:
            raise OSError(errno.ENOSPC, lines[-1]) from None
        raise SourceError(f"{' '.join(command[:4])} failed: {lines[-1]}") from None


def _repository(source: Source, cache: Path, mirrors: Path | None) -> Path:
    name = source["origin"].replace("/", "+")
    places = [mirrors / name / sub for sub in ("repo", "repo/.git", ".git", "")] if mirrors else []
    places.append(cache / "git" / name)
    for place in places:
        if (place / "HEAD").exists():
            break
    else:
        place = cache / "git" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        run(["git", "clone", "-q", "--bare", f"https://github.com/{source['origin']}", str(place)], place.parent)
    commit = source["commit"]
    if subprocess.run(["git", "-C", place, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True).returncode:
        raise SourceError(f"changed: {source['origin']} has no commit {commit}")
    return place


def unpack(source: Source, fetched: Path, folder: Path) -> None:
    """Unpack a package or archive into `folder`, and make there what the table wants made of it."""
    if source["kind"] == "deb":
        run(["dpkg-deb", "-x", str(fetched), str(folder)], folder)
    elif zipfile.is_zipfile(fetched):
        with zipfile.ZipFile(fetched) as archive:
            archive.extractall(folder)
    elif source["kind"] != "git":
        with tarfile.open(fetched) as tar:
            tar.extractall(folder, filter="data")
    if "soundfont" in source:
        render_soundfont(source, next(folder.rglob(source["soundfont"])), folder / "rendered")
    if "voices" in source:
        speak(source, folder / "spoken")


def copyright_text(folder: Path) -> str:
    """The copyright file of an unpacked Debian package, "" where it is another package's."""
    found = [path for path in folder.glob("usr/share/doc/*/copyright") if path.exists()]
    return found[0].read_text(errors="replace") if found else ""


def files(source: Source, fetched: Path, folder: Path, missing: list[str]) -> Iterator[tuple[str, bytes]]:
    """Files of a source that its `include` fits and its `exclude` does not, sorted by name within an archive.

    Args:
        source: a row of the table.
        fetched: what `fetch` returned, read for a git repository.
        folder: what `unpack` filled, read for all others.
        missing: takes the names of files that are listed but cannot be had.
    """
    if source["kind"] == "git":
        yield from _git_files(source, fetched, missing)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        name = path.relative_to(folder).as_posix()
        if path.suffix in ZIPS and zipfile.is_zipfile(path):
            yield from _zip_files(source, name + "/", path)
        elif wanted(source, name):
            yield name, path.read_bytes()


def wanted(source: Source, name: str) -> bool:
    """Whether `include` fits a name and `exclude` does not; `*` fits "/", too."""
    lower = name.lower()
    fits = any(fnmatchcase(lower, pattern.lower()) for pattern in source["include"])
    return fits and not any(fnmatchcase(lower, pattern.lower()) for pattern in source.get("exclude", []))


def _zip_files(source: Source, prefix: str, path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if wanted(source, prefix + name):
                yield prefix + name, archive.read(name)


def _git_files(source: Source, place: Path, missing: list[str]) -> Iterator[tuple[str, bytes]]:
    listed = subprocess.run(
        ["git", "-C", place, "ls-tree", "-r", "-z", source["commit"]], capture_output=True, check=True
    ).stdout.decode("utf-8", "surrogateescape")
    entries = [entry.split("\t", 1) for entry in listed.split("\0") if entry]
    links = "120000"  # a symbolic link's mode
    blobs = [(name, head.split()[2]) for head, name in entries if head[:6] != links and wanted(source, name)]
    reader = subprocess.Popen(
        ["git", "-C", place, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with reader:
        assert reader.stdin and reader.stdout
        for name, blob in blobs:
            reader.stdin.write(blob.encode() + b"\n")
            reader.stdin.flush()
            head = reader.stdout.readline().split()
            if head[-1] == b"missing":
                missing.append(name)
                continue
            content = reader.stdout.read(int(head[2]))
            reader.stdout.read(1)
            yield name, content
        reader.stdin.close()
