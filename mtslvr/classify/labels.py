"""Labels with times: csv, jsonl and parquet tables, Audacity label tracks, Raven selection tables; read and written."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from ..errors import ConfigError
from ..run.table import as_utf8

CSV_COLUMNS = ("file", "start", "end", "label", "score")
FILE_COLUMNS = ("file", "path", "filename", "Begin Path", "Begin File")
LABEL_COLUMNS = ("label", "class", "species", "annotation", "common name", "species code", "tags", "call type")
_TIME = r"(?:[ _]?time)?[ _]?(?:\(?(?:s|sec|seconds)\)?)?"
_START, _END = (re.compile(f"(?:{names}){_TIME}") for names in ("start|begin|onset", "end|stop|offset"))
_PERHAPS_TIME = re.compile(r"start|begin|onset|offset|duration|(?<![a-z])(?:end|stop|time)(?![a-z])|(?:end|stop)time")
_SCORED = re.compile(r"(.+) ([01]\.\d\d)")  # a label of `audacity_text`
_RAVEN_BEGIN, _RAVEN_END, _RAVEN_OFFSET = "Begin Time (s)", "End Time (s)", "File Offset (s)"
_RAVEN_COLUMNS = (
    "Selection", "View", "Channel", _RAVEN_BEGIN, _RAVEN_END, "Low Freq (Hz)", "High Freq (Hz)", "Begin Path",
    "Begin File", _RAVEN_OFFSET, "Label", "Score",
)  # fmt: skip


@dataclass(frozen=True)
class Label:
    """A stretch of a recording and what is heard in it.

    Attributes:
        file: name or path of the recording.
        start: seconds from its beginning; None is the beginning.
        end: seconds from its beginning; None is its end.
        label: the class.
        score: probability of the class, 0 to 1; 1 where a person has said so.
    """

    file: str
    start: float | None
    end: float | None
    label: str
    score: float = 1.0


@dataclass(frozen=True)
class Recording:
    """What selection tables say of a recording beside its labels.

    Attributes:
        name: as `Label.file` has it.
        path: where it is.
        seconds: how long it is.
        sample_rate: Hz.
    """

    name: str
    path: str
    seconds: float
    sample_rate: int


Elsewhere: TypeAlias = Mapping[str, Sequence[str]]


def by_name(paths: Iterable[str]) -> Elsewhere:
    """Paths of recordings by their names, with and without the suffix."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        name = os.path.basename(path)
        for key in (name, os.path.splitext(name)[0]):
            found[key].append(path)
    return dict(found)


def read_labels(
    table: str | os.PathLike[str], elsewhere: Elsewhere | None = None, *, empty: bool = False
) -> list[Label]:
    """Read a table of labels; its form is told from its first line.

    Args:
        table: csv, parted by commas, semicolons or tabs, with the columns file, label and, for parts of a recording,
            start and end in seconds; a Raven selection table; or an Audacity label track, whose recording has the same
            name with another suffix. Columns are known in any case and by other usual names.
        elsewhere: where recordings may be that are not beside the table, from `by_name`.
        empty: whether the table may have no labels.
    Returns:
        Labels with the paths of their recordings, those of a relative name below the table's folder.
    Raises:
        ConfigError: a file that is no such table or not in UTF-8, a column that is missing or may be a time, a time
            that is no number, negative or not before the end; with the line.
    """
    path = Path(table)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: not in UTF-8; save the table as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ConfigError(f"{path}, line {line}: no text in UTF-8; save the table as UTF-8")
    first = text.split("\n", 1)[0]
    if empty and not text.strip():
        return []
    if _RAVEN_BEGIN in first and "\t" in first:
        labels = list(_raven_rows(path, text, elsewhere or {}))
    elif _is_track(first):
        labels = list(_track_rows(path, text, elsewhere or {}))
    else:
        labels = list(_csv_rows(path, text))
    if not labels and not empty:
        raise ConfigError(f"{path}: no labels in it; give a table with a line a label")
    places = {file: _place(path, file, elsewhere or {}) for file in {label.file for label in labels}}
    return [replace(label, file=places[label.file]) for label in labels]


def _place(table: Path, file: str, elsewhere: Elsewhere) -> str:
    """The path of a recording that a table names: beside the table, or one elsewhere whose path ends in the name."""
    beside = table.parent / file
    if beside.exists():
        return str(beside)
    parts = PurePath(file).parts
    found = [x for x in elsewhere.get(parts[-1] if parts else "", ()) if _ends_in(PurePath(x), parts)]
    if len(found) > 1:
        raise ConfigError(f"{table}: {file!r} may be {found[0]} or {found[1]}; give its path")
    return found[0] if found else str(beside)


def _ends_in(path: PurePath, parts: Sequence[str]) -> bool:
    return any(whole.parts[-len(parts) :] == tuple(parts) for whole in (path, path.with_suffix("")))


def _is_track(line: str) -> bool:
    parts = line.split("\t")
    try:
        return len(parts) >= 2 and math.isfinite(float(parts[0])) and math.isfinite(float(parts[1]))
    except ValueError:
        return False


def _csv_rows(path: Path, text: str) -> Iterator[Label]:
    first = text.split("\n", 1)[0]
    delimiter = max("\t,;", key=first.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = [(name or "").strip() for name in rows.fieldnames or ()]
    rows.fieldnames = names
    file = _column(path, names, FILE_COLUMNS, "the recording: file")
    label = _column(path, names, LABEL_COLUMNS, "the class: label")
    times = _time_columns(path, names, {file, label})
    score = next((name for name in names if name.lower() == "score"), "score")
    for row in rows:
        numbers = [row.get(name) or None for name in (*times, score)]
        if delimiter == ";":  # where numbers may have a decimal comma
            numbers = [number and number.replace(",", ".") for number in numbers]
        start, end, value = numbers
        yield _label(path, rows.line_num, row[file], start, end, row[label], value)


def _time_columns(path: Path, names: Sequence[str], others: Collection[str]) -> list[str]:
    """The columns of start and end; "" for one that is not there.

    Raises:
        ConfigError: one is not there, and another column may be it.
    """
    left = [name for name in names if name not in others]
    times = [next((x for x in left if known.fullmatch(x.lower())), "") for known in (_START, _END)]
    perhaps = [name for name in left if name not in times and _PERHAPS_TIME.search(name.lower())]
    if perhaps and not all(times):
        raise ConfigError(
            f"{path}: {', '.join(map(repr, perhaps))} may be times, and are not known; name the columns of times "
            "'start' and 'end', in seconds, or take the others out to have whole recordings"
        )
    return times


def _raven_rows(path: Path, text: str, elsewhere: Elsewhere) -> Iterator[Label]:
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    names = [name or "" for name in rows.fieldnames or ()]
    label = _column(path, names, LABEL_COLUMNS, "the class: Label")
    file = next((name for name in FILE_COLUMNS if name in names), None)
    alone = None if file else _recording_of(path, elsewhere)
    seen = set()
    for row in rows:
        begin, end = row[_RAVEN_BEGIN], row[_RAVEN_END] if _RAVEN_END in names else None
        key = (row.get("Selection"), begin, end, row[label])
        if key in seen:  # a selection has a line for each view
            continue
        seen.add(key)
        if row.get(_RAVEN_OFFSET):  # the other times go on over all the recordings of the table
            length = _seconds(path, rows.line_num, "end", end) - _seconds(path, rows.line_num, "start", begin)
            begin, end = row[_RAVEN_OFFSET], str(length + float(row[_RAVEN_OFFSET]))
        yield _label(
            path, rows.line_num, row[file] if file else alone, begin, end, row[label], row.get("Score") or None
        )


def _track_rows(path: Path, text: str, elsewhere: Elsewhere) -> Iterator[Label]:
    recording = _recording_of(path, elsewhere)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("\\"):  # a second line holds the frequencies of a label
            continue
        start, end, *name = line.split("\t")
        label = name[0] if name else None
        scored = _SCORED.fullmatch(label or "")
        yield _label(path, number, recording, start, end, *(scored.groups() if scored else (label, None)))


def _recording_of(track: Path, elsewhere: Elsewhere) -> str:
    from ..audio.load import AUDIO_SUFFIXES

    stem = track.name.split(".Table.")[0] if ".Table." in track.name else track.stem
    beside = [p for p in sorted(track.parent.glob("*")) if stem in (p.stem, p.name)]
    found = [p.name for p in beside if p.suffix.lower() in AUDIO_SUFFIXES] or elsewhere.get(stem, ())
    if len(found) != 1:
        told = f"{len(found)} recordings" if found else "no recording"
        raise ConfigError(
            f"{track}: names no recording, and {told} of the name {stem!r} beside it or to be labelled; name the table "
            "as the recording, or give a csv with the columns file, start, end, label"
        )
    return found[0]


def _column(path: Path, names: Sequence[str], known: Sequence[str], what: str) -> str:
    lower = {name.lower(): name for name in reversed(names)}
    found = next((lower[name.lower()] for name in known if name.lower() in lower), None)
    if found is None:
        has = ", ".join(map(repr, names)) or "none"
        raise ConfigError(f"{path}: no column for {what}; its columns are {has}; name one {known[0]!r}")
    return found


def _label(
    path: Path, line: int, file: str | None, start: str | None, end: str | None, label: str | None, score: str | None
) -> Label:
    if not file:
        raise ConfigError(f"{path}, line {line}: no recording named; fill in its file")
    if not label or not label.strip():
        raise ConfigError(f"{path}, line {line}: no label; fill it in, or take the line out")
    first = None if start is None else _seconds(path, line, "start", start)
    last = None if end is None else _seconds(path, line, "end", end)
    if first is not None and last is not None and not first < last:
        raise ConfigError(f"{path}, line {line}: end {last:g} s is not after start {first:g} s; correct the times")
    value = 1.0 if score is None else _seconds(path, line, "score", score)
    return Label(file, first, last, label.strip(), value)


def _seconds(path: Path, line: int, name: str, value: str | None) -> float:
    try:
        seconds = float(value or "")
    except ValueError:
        seconds = -1.0
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ConfigError(f"{path}, line {line}: {name} {value!r}: must be a number of seconds from 0 on")
    return seconds


Row: TypeAlias = dict[str, Any]


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


def jsonl_text(rows: Iterable[Row]) -> str:
    """A JSON object a row."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def audacity_text(labels: Iterable[Label]) -> str:
    """A label track of one recording: start, end and label with its score, parted by tabs."""
    lines = (f"{x.start or 0.0:.6f}\t{x.end or 0.0:.6f}\t{_one_field(x.label)} {x.score:.2f}\n" for x in labels)
    return "".join(lines)


def raven_text(labels: Iterable[Label], recordings: Sequence[Recording]) -> str:
    """A selection table of one or more recordings, which Raven opens one after the other in the order given.

    Args:
        labels: of these recordings.
        recordings: their lengths say where each begins in the table's time, their rates the highest frequency.
    """
    begins, total = {}, 0.0
    for recording in recordings:
        begins[recording.name] = total, recording
        total += recording.seconds
    lines = ["\t".join(_RAVEN_COLUMNS)]
    for number, x in enumerate(labels, 1):
        begin, recording = begins[x.file]
        start, end = x.start or 0.0, x.end if x.end is not None else recording.seconds
        row: list[Any] = [number, "Spectrogram 1", 1, f"{begin + start:.6f}", f"{begin + end:.6f}", "0.0"]
        row += [f"{recording.sample_rate / 2:.1f}", os.path.abspath(recording.path), os.path.basename(recording.path)]
        lines.append("\t".join(map(str, [*row, f"{start:.6f}", _one_field(x.label), f"{x.score:.4f}"])))
    return "\n".join(lines) + "\n"


def parquet_bytes(rows: Sequence[Row], columns: Sequence[str] = CSV_COLUMNS) -> bytes:
    """The table of `csv_text` for pandas, polars and DuckDB; needs pyarrow."""
    import pyarrow
    from pyarrow import parquet

    kinds = {name: pyarrow.string() if name.startswith(("file", "label")) else pyarrow.float64() for name in columns}
    named = [{**row, "file": as_utf8(row["file"])} for row in rows]
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(named, pyarrow.schema(kinds.items())), out)
    return out.getvalue()


def _one_field(text: str) -> str:
    """Text without tabs and line breaks, which part the fields of these tables."""
    return " ".join(text.split())
