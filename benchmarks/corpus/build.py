"""The table of sources to clips, report sets, a packed corpus and its report."""

from __future__ import annotations

import argparse
import errno
import io
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import soundfile

from mtslvr.audio.find import find_audio
from mtslvr.audio.load import load_audio
from mtslvr.errors import AudioError
from mtslvr.training.data import pack

from .clips import FRAME, RATE, SHORTEST, SILENCE, HeldOut, Known, decode, fingerprints, pieces, trim
from .collect import Source, SourceError, copyright_text, fetch, files, unpack, wanted
from .licences import is_free, licence_of, parse_copyright
from .report import write_report

TABLE = Path(__file__).with_name("sources.json")
KINDS = ("deb", "npm", "git", "archive")
SOUNDS = ("sounds", "speech", "music", "instruments", "rendered")
NEEDED = ("name", "kind", "origin", "licence", "sound", "include")
NAMED = 20  # of the files left out for one reason, so many are named in the report


class TableError(Exception):
    """A row of the table that cannot be used."""


def read_table(path: Path) -> list[Source]:
    """Rows of the table.

    Raises:
        TableError: a field or a licence is missing, a name is there twice, or the licence is not free for any use.
    """
    sources = json.loads(path.read_text())
    names: set[str] = set()
    for i, source in enumerate(sources):
        name = source.get("name", f"row {i + 1}")
        missing = [field for field in NEEDED if not source.get(field)]
        if missing:
            raise TableError(f"{path}: {name} has no {', '.join(missing)}; nothing is collected without it")
        sound = source["sound"]
        sounds = {kind for _, kind in sound} if isinstance(sound, list) else {sound}
        if source["kind"] not in KINDS or not sounds <= set(SOUNDS):
            raise TableError(f"{path}: {name}: kind is one of {', '.join(KINDS)}; sound one of {', '.join(SOUNDS)}")
        if source["licence"] != "per file" and not is_free(source["licence"]):
            raise TableError(f"{path}: {name}: licence {source['licence']!r} does not allow any use; leave it out")
        if name in names:
            raise TableError(f"{path}: {name} is there twice")
        names.add(name)
    return sources


def build(table: Path, out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Collect every source that `out` does not hold yet.

    Returns:
        A record for each source; one that failed has "missing", the reason.
    """
    sources = read_table(table)
    held_out = HeldOut([load_audio(path, RATE) for path, _ in find_audio(options.held_out)] if options.held_out else [])
    known = Known()
    done = complete(sources, out, known)
    records = []
    for source in sources:
        if source["name"] in done:
            records.append(done[source["name"]])
        elif not options.only or source["name"] in options.only:
            records.append(make(source, out, options, known, held_out))
            print(summary(records[-1]), flush=True)
    return records


def complete(sources: list[Source], out: Path, known: Known) -> dict[str, dict[str, Any]]:
    """Records of the sources that `out` holds; `known` learns their clips.

    What a source that has left the table or whose row has changed had made is removed.
    """
    rows = {source["name"]: source for source in sources}
    done = {}
    for path in sorted((out / "records").glob("*.json")):
        record = json.loads(path.read_text())
        name = record["name"]
        if record["row"] == rows.get(name):
            done[name] = record
            stored = np.load(path.with_suffix(".npz"))
            for frames, row in zip(stored["frames"], stored["rows"].astype(np.float32), strict=True):
                known.add(int(frames), row)
        else:
            path.unlink()
    for folder in (out / "clips").glob("*"):
        if folder.name not in done:
            shutil.rmtree(folder)
    for clip in (out / "report-sets").glob("*/*/*"):
        if clip.name.split("+")[0] not in done:
            clip.unlink()
            if not any(clip.parent.iterdir()):
                clip.parent.rmdir()
    return done


def make(source: Source, out: Path, options: argparse.Namespace, known: Known, held_out: HeldOut) -> dict[str, Any]:
    """Collect one source; what goes wrong is the record's "missing"."""
    part = out / "part"
    shutil.rmtree(part, ignore_errors=True)  # of an interrupted source
    try:
        fetched = fetch(source, options.sources or out / "sources", options.mirrors, options.accept_changed)
        (part / "unpacked").mkdir(parents=True)
        unpack(source, fetched, part / "unpacked")
        record = collect(source, fetched, out, known, held_out)
    except SourceError as error:
        return {"name": source["name"], "missing": str(error)}
    finally:
        shutil.rmtree(part, ignore_errors=True)
    (out / "records" / f"{source['name']}.json").write_text(json.dumps(record, indent=1))
    return record


def summary(record: dict[str, Any]) -> str:
    """One line on a source."""
    if "missing" in record:
        return f"{record['name']}: MISSING, {record['missing']}"
    left = ", ".join(f"{count} {reason}" for reason, count in record["left_out"].items())
    hours = sum(seconds for *_, seconds in record["seconds"]) / 3600
    return f"{record['name']}: {sum(record['clips'].values())} clips, {hours:.2f} h; left out: {left or 'none'}"


def collect(source: Source, fetched: Path, out: Path, known: Known, held_out: HeldOut) -> dict[str, Any]:
    """Write a source's clips below `out`/clips, what belongs to report sets below `out`/report-sets.

    A source that is interrupted leaves nothing that counts: its clips are moved into place once it is complete.
    """
    made = out / "part" / "made"
    left_out: dict[str, list[str]] = defaultdict(list)
    seconds: Counter[tuple[str, str]] = Counter()
    clips: Counter[str] = Counter()
    reported: Counter[str] = Counter()
    keys: list[tuple[int, np.ndarray]] = []
    for name, i, licence, clip in clips_of(source, fetched, out / "part" / "unpacked", left_out):
        prints = fingerprints(clip)
        key = (len(clip) // FRAME, prints[0])
        if prints in held_out or key in known:
            left_out["held out" if prints in held_out else "copy"].append(f"{name}#{i}")
            continue
        known.add(*key)
        keys.append(key)
        parts = [re.sub(r"[^\w.,+=-]", "_", part).lstrip(".") or "_" for part in PurePosixPath(name).parts[-4:]]
        if report := report_class(source, name):
            reported[report] += 1
            write_clip(made / "report-sets" / report / f"{source['name']}+{'_'.join(parts)}.flac", clip)
        else:
            kind = kind_of(source, name)
            clips[kind] += 1
            seconds[kind, licence] += len(clip) / RATE
            write_clip(made.joinpath("clips", source["name"], *parts[:-1], f"{parts[-1]}-{i}.flac"), clip)
    if not keys:
        raise SourceError(f"not one clip ({ {reason: len(names) for reason, names in left_out.items()} })")
    move(made, out)
    np.savez(
        out / "records" / f"{source['name']}.npz",
        frames=np.array([frames for frames, _ in keys]),
        rows=np.array([row for _, row in keys], np.float16),
    )
    return {
        "name": source["name"],
        "row": source,
        "file": source.get("commit", fetched.name),
        "clips": dict(clips),
        "seconds": [[kind, licence, round(s, 2)] for (kind, licence), s in sorted(seconds.items())],
        "report_sets": dict(reported),
        "left_out": {reason: len(names) for reason, names in left_out.items()},
        "named": {reason: names[:NAMED] for reason, names in left_out.items()},
    }


def clips_of(
    source: Source, fetched: Path, folder: Path, left_out: dict[str, list[str]]
) -> Iterator[tuple[str, int, str, np.ndarray]]:
    """Clips with sound of files under free licences.

    Args:
        source: a row of the table.
        fetched: what `fetch` returned.
        folder: what `unpack` filled.
        left_out: takes the names of all others by the reason.
    Yields:
        The file's name, the clip's number in it, licence, (n,) float32.
    """
    stanzas = None
    if source["licence"] == "per file":
        stanzas = parse_copyright(copyright_text(folder))
        if not stanzas:
            raise SourceError("its copyright file names no licences by file; give the licence in the table")
    gone: list[str] = []
    for name, content in islice(files(source, fetched, folder, gone), 0, None, source.get("every", 1)):
        licence = source["licence"] if stanzas is None else licence_of(name, stanzas)
        if not is_free(licence):
            left_out[f"licence {licence or 'unknown'}"].append(name)
            continue
        try:
            waveform = trim(decode(content, name, source.get("raw")))
        except AudioError:
            left_out["unreadable"].append(name)
            continue
        for i, clip in enumerate(pieces(waveform, 1 if report_class(source, name) else source.get("most", 36))):
            if len(clip) < SHORTEST * RATE or np.abs(clip).max() < SILENCE:
                left_out["without sound or too short"].append(f"{name}#{i}")
            else:
                yield name, i, licence, clip
    if gone:
        left_out["gone"] = gone


def kind_of(source: Source, name: str) -> str:
    """Kind of sound of a file: the row's, or that of the first of its patterns that fits."""
    kinds = source["sound"] if isinstance(source["sound"], list) else [["*", source["sound"]]]
    return next((kind for pattern, kind in kinds if wanted({"include": [pattern]}, name)), "sounds")


def report_class(source: Source, name: str) -> str | None:
    """SET/CLASS of a file that is held out for a report set, None for one of the corpus."""
    for name_of_set, pattern in source.get("report_sets", {}).items():
        found = re.search(pattern, name)
        if found:
            return f"{name_of_set}/{found['label'].lower()}"
    return None


def write_clip(target: Path, clip: np.ndarray) -> None:
    """Store a clip as FLAC, under another name where names of files become the same one."""
    while target.exists():
        target = target.with_name(f"{target.stem}+.flac")
    file = io.BytesIO()  # libsndfile does not say that there is no space left
    soundfile.write(
        file, np.round(clip.clip(-1, 1) * 32767).astype(np.int16), RATE, format="FLAC", compression_level=0.0
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.getvalue())


def move(place: Path, out: Path) -> None:
    """Put a complete source's files into place."""
    for path in sorted(place.rglob("*.flac")):
        target = out / path.relative_to(place)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


def pack_corpus(out: Path, packed: Path) -> None:
    """Pack all clips; the folder appears when it is complete."""
    part = packed.with_name(packed.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for message in pack([out / "clips"], part, RATE):
        print(message)
    shutil.rmtree(packed, ignore_errors=True)
    part.replace(packed)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the corpus; one half made goes on")
    parser.add_argument("--table", type=Path, default=TABLE, help="rows of sources [default: sources.json]")
    parser.add_argument("--sources", type=Path, help="folder of downloads [default: OUT/sources]")
    parser.add_argument("--mirrors", type=Path, help="folder of git repositories, OWNER+NAME, used before a clone")
    parser.add_argument("--held-out", type=Path, action="append", help="folder whose recordings are kept out")
    parser.add_argument("--only", action="append", help="a source by name; more than once for several")
    parser.add_argument("--accept-changed", action="store_true", help="take downloads whose sum has changed")
    parser.add_argument("--packed", type=Path, help="where to pack [default: OUT/packed]")
    options = parser.parse_args(arguments)
    out = options.out
    try:
        (out / "records").mkdir(parents=True, exist_ok=True)
        records = build(options.table, out, options)
        if not any("clips" in record for record in records):
            parser.exit(1, f"{out}: not one source could be collected\n")
        pack_corpus(out, options.packed or out / "packed")
        write_report(records, out)
    except TableError as error:
        parser.exit(2, f"{error}\n")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        parser.exit(1, f"{out}: no space left; make room and run the same command again, it goes on from there\n")
    return 0
