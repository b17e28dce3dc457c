"""Labels to files: one table, or a track or selection table for each recording, each written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import enum
import hashlib
import importlib.util
import io
import itertools
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from ..errors import ConfigError
from ..run.files import atomic, guarded, remove_parts, resolve, sidecar, write_file
from ..run.table import as_utf8
from .labels import RAVEN_BEGIN, RAVEN_OFFSET, Label, first_bytes

CSV_COLUMNS = ("file", "start", "end", "label", "score")
_RAVEN_COLUMNS = (
    "Selection", "View", "Channel", RAVEN_BEGIN, "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Begin Path",
    "Begin File", RAVEN_OFFSET, "Label", "Score",
)  # fmt: skip
Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """A recording that was looked at: its name as `Label.file` has it, its path, length, rate in Hz and channel."""

    name: str
    path: str
    seconds: float
    sample_rate: int
    channel: int | str = "mix"


class LabelFormat(str, enum.Enum):
    """What labels are written as."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    AUDACITY = "audacity"
    RAVEN = "raven"


TABLES = (LabelFormat.CSV, LabelFormat.JSONL, LabelFormat.PARQUET)
_WRITTEN = ".mtslvr-classify.json"  # in a folder of labels: digests of what calls have written there
_LONGEST = 230  # bytes of a file's name, which is longer by some while it is written
_TRACK_SUFFIX = {LabelFormat.AUDACITY: ".txt", LabelFormat.RAVEN: ".Table.1.selections.txt"}


def check_labels_output(out: Path, given: str | None, *, per_file: bool = False) -> LabelFormat:
    """The format of `out`, `given` or by its suffix, once it is sure that labels, or rows a file, can be written."""
    name = given or out.suffix.lower().removeprefix(".")
    if given is None and name not in {form.value for form in TABLES}:
        raise ConfigError(
            f"{out}: no format by the suffix {out.suffix!r}; end the name in .csv, .jsonl or .parquet, or give "
            "--format audacity or raven"
        )
    form = LabelFormat(name)
    if per_file and form not in TABLES:
        raise ConfigError(f"{out}: a row a recording has no times, which {name} is made of; choose csv, jsonl, parquet")
    if form is LabelFormat.PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"{out}: parquet needs pyarrow; pip install 'mtslvr[parquet]'")
    check_folder(out) if _is_folder(out, form) else check_file(out)
    return form


def check_labels_kept(out: Path, form: LabelFormat, names: Sequence[str], *, overwrite: bool) -> None:
    """Refuse one track for several recordings `names`, and to write over labels that are not as a call wrote them."""
    if form is LabelFormat.AUDACITY and len(names) > 1 and not _is_folder(out, form):
        raise ConfigError(f"{out}: a label track is of one recording, and there are {len(names)}; name a folder")
    if overwrite:
        return
    folder, files = (out, _places(form, names)) if _is_folder(out, form) else (out.parent, [out.name])
    written = _written(folder)
    if changed := [x for x in files if (digest := _digest_of(folder / x)) and digest not in written.get(x, ())]:
        others = f" and {len(changed) - 1} more" if changed[1:] else ""
        raise ConfigError(
            f"{folder / changed[0]}{others}: changed since mtslvr classify wrote it, or not written by it; move it "
            "away, choose another -o, or have it written over with --overwrite"
        )


def _written(folder: Path) -> dict[str, list[str]]:
    """Digests of what the files in a folder of labels may hold as calls have written them."""
    noted = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        noted = json.loads((folder / _WRITTEN).read_bytes()) if (folder / _WRITTEN).is_file() else None
    pairs = noted.items() if isinstance(noted, dict) else ()
    return {name: digests for name, digests in pairs if isinstance(digests, list)}


def _digest_of(file: Path) -> str | None:
    with guarded(file):
        return _digest(file.read_bytes()) if file.is_file() else None


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def check_file(path: str | os.PathLike[str], kind: str = "", sign: str = "") -> None:
    """Refuse a file that cannot be written, or is there without the `sign` that begins files of this kind."""
    target = resolve(path, writable=True)
    if sign and target.exists():
        with guarded(path), open(target, "rb") as file:
            if sign.encode() not in file.read(1000):
                raise ConfigError(f"{path}: is there and is no {kind}; move it away, or choose another name")


def check_folder(path: Path) -> None:
    """Refuse a folder, which need not be there, to which no files can be written."""
    if os.path.isfile(path):
        raise ConfigError(f"{path}: exists and is not a folder; choose another name")
    if not os.access(path if os.path.isdir(path) else resolve(path).parent, os.W_OK):
        raise ConfigError(f"{path}: its folder cannot be written; choose another")


def _is_folder(out: Path, form: LabelFormat) -> bool:
    return form not in TABLES and (os.path.isdir(out) or out.suffix.lower() != ".txt")


def write_labels(out: Path, form: LabelFormat, labels: Sequence[Label], recordings: Sequence[Recording]) -> None:
    """Write the labels of all recordings, those without labels among them."""
    if form in TABLES:
        return write_rows(out, form, [label_row(label) for label in labels], CSV_COLUMNS)
    text = audacity_text if form is LabelFormat.AUDACITY else raven_text
    if not _is_folder(out, form):
        return _write_known(out.parent, {out.name: text(labels, recordings)})
    of_recording: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        of_recording[label.file].append(label)
    places = _places(form, [recording.name for recording in recordings])
    _write_known(out, {place: text(of_recording[x.name], [x]) for place, x in zip(places, recordings, strict=True)})


def write_rows(out: Path, form: LabelFormat, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Write a table."""
    if form is LabelFormat.PARQUET:
        content: str | bytes = parquet_bytes(rows, columns)
    elif form is LabelFormat.CSV:
        content = csv_text(rows, columns)
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows)
    _write_known(out.parent, {out.name: content})


def _write_known(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    """Write files and note what they hold.

    Until all are written the list has what a call wrote before, too, so that one may be killed at any time.
    """
    import filelock

    noted = folder / _WRITTEN
    files = {name: x.encode("utf-8", "surrogateescape") if isinstance(x, str) else x for name, x in contents.items()}
    new = {name: [_digest(content)] for name, content in files.items()}
    with guarded(noted):
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(sidecar(noted, ".lock")):
            remove_parts([noted, *(folder / name for name in files)])
            written = _written(folder)
            old = {name: [x for x in written.get(name, ()) if x == _digest_of(folder / name)] for name in files}
            _note(noted, {**written, **{name: old[name] + new[name] for name in files}})
            for name, content in files.items():
                write_file(folder / name, content, parents=True)
            _note(noted, {**written, **new})


def _note(file: Path, digests: Mapping[str, list[str]]) -> None:
    """Write the digests in the place of whatever is there, a link as well."""
    with atomic(file) as out:
        out.write(json.dumps(digests).encode())


def _places(form: LabelFormat, recordings: Sequence[str]) -> list[str]:
    """Where in the folder the file of each recording goes: named as the recording, in its folder."""
    names = [PurePosixPath(*(part for part in PurePosixPath(x).parts if part not in ("/", ".."))) for x in recordings]
    stems = Counter(name.with_suffix("") for name in names)
    suffix, taken = _TRACK_SUFFIX[form], dict[str, None]()
    for name in names:
        stem = name.name if stems[name.with_suffix("")] > 1 else name.stem
        place = name.with_name(first_bytes(stem, _LONGEST - len(suffix)))
        while f"{place}{suffix}" in taken:
            place = place.with_name(f"{place.name}_")
        taken[f"{place}{suffix}"] = None
    return list(taken)


def label_row(label: Label) -> Row:
    """The columns of a label: file, start, end, label, score."""
    times = (None if x is None else round(x, 3) for x in (label.start, label.end))
    return dict(zip(CSV_COLUMNS, (label.file, *times, label.label, round(label.score, 4)), strict=True))


def csv_text(rows: Sequence[Row], columns: Sequence[str] = CSV_COLUMNS) -> str:
    """A table; with the columns of labels one that `read_labels` reads."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def parquet_bytes(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """The table of `csv_text`; needs pyarrow."""
    import pyarrow
    from pyarrow import parquet

    kinds = {name: pyarrow.string() if name.startswith(("file", "label")) else pyarrow.float64() for name in columns}
    named = [{**row, "file": as_utf8(row["file"])} for row in rows]
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(named, pyarrow.schema(kinds.items())), out)
    return out.getvalue()


def audacity_text(labels: Iterable[Label], recordings: Sequence[Recording] = ()) -> str:
    """A label track of one recording."""
    return "".join(f"{x.start:.6f}\t{x.end:.6f}\t{_one_field(x.label)} {x.score:.2f}\n" for x in labels)


def raven_text(labels: Iterable[Label], recordings: Sequence[Recording]) -> str:
    """A selection table of recordings that Raven opens one after the other, so that its times go on over all."""
    begins = itertools.accumulate((x.seconds for x in recordings), initial=0.0)
    places = {recording.name: (begin, recording) for begin, recording in zip(begins, recordings, strict=False)}
    lines = ["\t".join(_RAVEN_COLUMNS)]
    for number, x in enumerate(labels, 1):
        begin, recording = places[x.file]
        start, end, top = x.start or 0.0, x.end or 0.0, recording.sample_rate / 2
        row = [str(number), "Spectrogram 1", "1", f"{begin + start:.6f}", f"{begin + end:.6f}", "0.0", f"{top:.1f}"]
        path = re.sub(r"[\t\r\n]", " ", os.path.abspath(recording.path))
        row += [path, os.path.basename(path), f"{start:.6f}"]
        lines.append("\t".join([*row, _one_field(x.label), f"{x.score:.4f}"]))
    return "\n".join(lines) + "\n"


def _one_field(text: str) -> str:
    """Text without tabs and line breaks, which part the fields of these tables."""
    return " ".join(text.split())
