"""Tables of labels, read: csv, Audacity label tracks, Raven selection tables; `output` writes them."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PureWindowsPath
from typing import NamedTuple, TypeAlias

from ..audio.find import AUDIO_SUFFIXES, FoundAudio
from ..errors import ConfigError

FILE_COLUMNS = ("file", "path", "filename", "file_name", "fname", "begin path", "begin file", "name")
LABEL_COLUMNS = (
    "label", "class", "class_name", "category", "species", "annotation", "common name", "species code", "tags",
    "call type", "target",
)  # fmt: skip
_TIME = r"(?:[ _]?time)?[ _]?(?:\(?(?:s|sec|seconds)\)?)?"
_START, _END = (re.compile(f"(?:{names}){_TIME}") for names in ("start|begin|onset", "end|stop|offset"))
_PERHAPS_TIME = re.compile(r"start|begin|onset|offset|duration|(?<![a-z])(?:end|stop|time)(?![a-z])|(?:end|stop)time")
_SCORED = re.compile(r"(.+) (0\.\d\d|1\.00)")  # a label of `audacity_text`
_NO_TEXT = re.compile("[\0\udc80-\udcff]")  # bytes that are not UTF-8, as Python reads them, and UTF-16's
RAVEN_BEGIN, RAVEN_OFFSET = "Begin Time (s)", "File Offset (s)"


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


class _Line(NamedTuple):
    """What stands in a line of a table."""

    number: int
    file: str | None
    label: str | None
    start: str | None = None
    end: str | None = None
    score: str | None = None
    offset: str | None = None  # of the start, where Raven's other times go on over all recordings of a table


Elsewhere: TypeAlias = Mapping[str, Sequence[FoundAudio]]


def by_name(recordings: Iterable[FoundAudio]) -> Elsewhere:
    """Recordings by the names of their files, with and without the suffix."""
    found: dict[str, list[FoundAudio]] = defaultdict(list)
    for recording in recordings:
        for key in dict.fromkeys((recording.path.name, recording.path.stem)):
            found[key].append(recording)
    return dict(found)


def read_labels(table: str | os.PathLike[str], elsewhere: Elsewhere | None = None) -> list[Label]:
    """Read a table of labels; its form is told from its first line.

    Args:
        table: csv, parted by commas, semicolons or tabs, with the columns file, label and, for parts of a recording,
            start and end in seconds; a Raven selection table; or an Audacity label track, whose recording has the same
            name with another suffix. Columns are known in any case and by other usual names.
        elsewhere: recordings that need not be beside the table, from `by_name`.
    Returns:
        Labels with the paths of their recordings, those of a relative name below the table's folder; each once.
    Raises:
        ConfigError: a file that is no such table or not in UTF-8, a column that is missing or may be a time, a time
            that is no number, negative or not before the end; with the line.
    """
    path, elsewhere = Path(table), elsewhere or {}
    try:
        # The names of recordings may be any bytes.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
            text = opened.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not text.strip():
        return []
    first = text.partition("\n")[0]
    _check_text(f"{path}, line 1", first)
    lines = (_track_lines if _is_track(first) else _table_lines)(path, text, elsewhere)
    try:
        labels = [_label(f"{path}, line {line.number}", line) for line in lines]
    except csv.Error as error:
        raise ConfigError(f"{path}: cannot be read ({error}); close the quote that is left open in it") from None
    places = {file: _place(path, file, elsewhere) for file in dict.fromkeys(label.file for label in labels)}
    # Raven has a line for each view of a selection.
    return list(dict.fromkeys(replace(label, file=places[label.file]) for label in labels))


def _check_text(where: str, text: str) -> None:
    if _NO_TEXT.search(text):
        raise ConfigError(f"{where}: not text in UTF-8; give a folder of classes, or save the table as UTF-8")


def _place(table: Path, file: str, elsewhere: Elsewhere) -> str:
    """The path of a recording that a table names: beside the table, or one elsewhere whose path ends in the name."""
    windows = PureWindowsPath(file)
    moved = windows.is_absolute() or PurePath(file).is_absolute()  # since, or of another machine
    for beside in (table.parent / file, table.parent / windows.name) if moved else (table.parent / file,):
        if os.path.exists(beside):
            return str(beside)
    parts = windows.parts if moved else PurePath(file).parts
    found = elsewhere.get(parts[-1], ()) if parts else ()
    if not moved:
        found = [x for x in found if x.name == file] or [x for x in found if _ends_in(x.path, parts)]
        parts = (table.parent / file).absolute().parts
    places = _in_folders_of(found, parts[:-1])
    if len(places) > 1:
        raise ConfigError(f"{table}: {file!r} may be {places[0]} or {places[1]}; give its path")
    if not places and _NO_TEXT.search(file):
        raise ConfigError(f"{table}: {file!r}: not in UTF-8, and no file has that name; save the table as UTF-8")
    return places[0] if places else str(beside)


def _ends_in(path: Path, parts: tuple[str, ...]) -> bool:
    return any(whole.parts[-len(parts) :] == parts for whole in (path, path.with_suffix("")))


def _in_folders_of(recordings: Sequence[FoundAudio], folders: Sequence[str]) -> list[str]:
    """The paths of those of several recordings that are in most of the last ones of these folders."""
    paths = [str(recording.path) for recording in recordings]
    both = [zip(Path(x).absolute().parts[-2::-1], folders[::-1], strict=False) for x in paths]
    shared = [sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)) for pairs in both]
    return [x for x, count in zip(paths, shared, strict=True) if count == max(shared)]


def is_track_or_selections(table: Path) -> bool:
    """Whether a file is a label track or a selection table, by its first line: these lie beside their recordings."""
    try:
        with open(table, encoding="utf-8-sig") as file:
            first = file.readline(1000)
    except (OSError, UnicodeDecodeError):
        return False
    return _is_track(first) or _is_selections(first)


def _is_selections(line: str) -> bool:
    return RAVEN_BEGIN in line and "\t" in line


def _is_track(line: str) -> bool:
    parts = line.replace(",", ".").split("\t")
    try:
        return len(parts) >= 2 and math.isfinite(float(parts[0])) and math.isfinite(float(parts[1]))
    except ValueError:
        return False


def _table_lines(path: Path, text: str, elsewhere: Elsewhere) -> Iterator[_Line]:
    first = text.partition("\n")[0]
    raven = _is_selections(first)
    delimiter = max("\t,;", key=first.count)
    lines = io.StringIO(text, newline="")
    rows = csv.DictReader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if raven else csv.QUOTE_MINIMAL)
    names = [(name or "").strip() for name in rows.fieldnames or ()]
    rows.fieldnames = names
    file, label, score = (_column(names, usual) for usual in (FILE_COLUMNS, LABEL_COLUMNS, ("score",)))
    missing = ["the class; name one 'label'"] if label is None else []
    missing += ["the recording; name one 'file'"] if file is None and not raven else []
    if missing:
        has = ", ".join(map(repr, names)) or "none"
        raise ConfigError(f"{path}: its columns are {has}: no column for {', and none for '.join(missing)}")
    start, end = _time_columns(path, names, {file, label, score})
    lower = [name.lower() for name in names]
    if twice := [name for name in (file, label, score, start, end) if name and lower.count(name.lower()) > 1]:
        raise ConfigError(f"{path}: has several columns {twice[0]!r}; leave one, or rename the others")
    alone = None if file else _recording_of(path, elsewhere)
    on_over_all = file is not None and file.lower().startswith("begin ") and start == RAVEN_BEGIN
    files = set[str]()
    for row in rows:
        if any(surplus := row.get(None) or ()):
            raise ConfigError(
                f"{path}, line {rows.line_num}: {len(names) + len(surplus)} fields under {len(names)} columns; put "
                "labels with commas in quotes, or part the fields by semicolons"
            )
        numbers = [row.get(name or "") or None for name in (start, end, score, RAVEN_OFFSET)]
        if delimiter == ";":  # where numbers may have a decimal comma
            numbers = [number and number.replace(",", ".") for number in numbers]
        line = _Line(rows.line_num, row[file] if file else alone, row[label or ""], *numbers)
        if on_over_all and line.offset is None:
            files.add(line.file or "")
        if len(files) > 1:
            raise ConfigError(
                f"{path}, line {rows.line_num}: a second recording and no {RAVEN_OFFSET!r}, and Raven's times go on "
                f"over all recordings; add this column in Raven, or where they begin anew in each, call {file!r} 'file'"
            )
        yield line


def _column(names: Sequence[str], known: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), None)


def _time_columns(path: Path, names: Sequence[str], used: Collection[str | None]) -> list[str | None]:
    """The columns of start and end; None for one that is not there, unless another column may be it."""
    left = [name for name in names if name not in used]
    times = [next((x for x in left if known.fullmatch(x.lower())), None) for known in (_START, _END)]
    others = [name for name in left if name not in times]
    perhaps = [name for name in others if _PERHAPS_TIME.search(name.lower())]
    if not all(times) and (any(times) or perhaps):
        lacking = " and ".join(what for what, name in zip(("start", "end"), times, strict=True) if name is None)
        among = f" among {', '.join(map(repr, perhaps or others))}" if others else ""
        raise ConfigError(
            f"{path}: no column is known as its {lacking}{among}; name the columns of times 'start' and 'end', in "
            "seconds, or take them out to have whole recordings"
        )
    return times


def _track_lines(path: Path, text: str, elsewhere: Elsewhere) -> Iterator[_Line]:
    recording = _recording_of(path, elsewhere)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("\\"):  # a second line holds the frequencies of a label
            start, end, label, *_ = (*line.split("\t"), "", "")
            scored = _SCORED.fullmatch(label)
            name, score = scored.groups() if scored else (label, None)
            yield _Line(number, recording, name, start.replace(",", "."), end.replace(",", "."), score)


def _recording_of(table: Path, elsewhere: Elsewhere) -> str:
    """The recording that a table is of which names none: the one of its name."""
    stem = table.name.split(".Table.")[0] if ".Table." in table.name else table.stem
    beside = [p for p in sorted(table.parent.glob("*")) if stem in (p.stem, p.name)]
    found = [p.name for p in beside if p.suffix.lower() in AUDIO_SUFFIXES]
    found = found or _in_folders_of(elsewhere.get(stem, ()), table.absolute().parent.parts)
    if len(found) != 1:
        told = f"{len(found)} recordings" if found else "no recording"
        raise ConfigError(
            f"{table}: names no recording, and {told} of the name {stem!r} beside it or to be labelled; name the table "
            "as the recording, or give a csv with the columns file, start, end, label"
        )
    return found[0]


def _label(where: str, line: _Line) -> Label:
    if not line.file:
        raise ConfigError(f"{where}: no recording named; fill in its file")
    if not line.label or not line.label.strip():
        raise ConfigError(f"{where}: no label; fill it in, or take the line out")
    _check_text(where, line.label)
    start, end, score, offset = (_number(where, name, getattr(line, name)) for name in _Line._fields[3:])
    if start is not None and end is not None and not start < end:
        raise ConfigError(f"{where}: end {end:g} s is not after start {start:g} s; correct the times")
    if offset is not None:
        start, end = offset, None if end is None else offset + end - (start or 0.0)
    return Label(line.file, start, end, line.label.strip(), 1.0 if score is None else score)


def _number(where: str, name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigError(f"{where}: {name} {text!r}: must be a number from 0 on, without a unit")
    return number
