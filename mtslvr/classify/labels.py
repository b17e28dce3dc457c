"""Tables of labels, read: csv, Audacity label tracks, Raven selection tables; `output` writes them."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PureWindowsPath
from typing import TypeAlias

from ..audio.find import AUDIO_SUFFIXES
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


Elsewhere: TypeAlias = Mapping[str, Sequence[str]]
# A line of a table: its number, the recording, the class, and start, end, score and Raven's offset as they stand there.
Line: TypeAlias = tuple[int, str | None, str | None, Sequence[str | None]]


def by_name(paths: Iterable[str]) -> Elsewhere:
    """Paths of recordings by their names, with and without the suffix."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        name = os.path.basename(path)
        for key in (name, os.path.splitext(name)[0]):
            found[key].append(path)
    return dict(found)


def first_bytes(name: str, most: int) -> str:
    """A name, cut to `most` bytes where it is longer."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= most else encoded[:most].decode("utf-8", "ignore")


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
    if empty and not text.strip():
        return []
    first = text.partition("\n")[0]
    _check_text(f"{path}, line 1", first)
    lines = (_track_lines if _is_track(first) else _table_lines)(path, text, elsewhere)
    try:
        labels = [_label(f"{path}, line {n}", file, label, numbers) for n, file, label, numbers in lines]
    except csv.Error as error:
        raise ConfigError(f"{path}: cannot be read ({error}); close the quote that is left open in it") from None
    if not labels and not empty:
        raise ConfigError(f"{path}: no labels in it; give a table with a line a label")
    places = {file: _place(path, file, elsewhere) for file in dict.fromkeys(label.file for label in labels)}
    # Raven has a line for each view of a selection.
    return list(dict.fromkeys(replace(label, file=places[label.file]) for label in labels))


def _check_text(where: str, text: str) -> None:
    if _NO_TEXT.search(text):
        raise ConfigError(f"{where}: not text in UTF-8; give a folder of classes, or save the table as UTF-8")


def _place(table: Path, file: str, elsewhere: Elsewhere) -> str:
    """The path of a recording that a table names: beside the table, or one elsewhere whose path ends in the name."""
    beside = table.parent / file
    if os.path.exists(beside):
        return str(beside)
    if PurePath(file).is_absolute() or PureWindowsPath(file).is_absolute():  # moved since, or of another machine
        folders, file = PureWindowsPath(file).parts[:-1], PureWindowsPath(file).name
        if os.path.exists(table.parent / file):
            return str(table.parent / file)
        found = _in_folders_of(elsewhere.get(file, ()), folders)
    else:
        parts = PurePath(file).parts
        found = [x for x in elsewhere.get(parts[-1] if parts else "", ()) if _ends_in(PurePath(x), parts)]
        # Of a.wav and b/a.wav in the folder of all recordings, the first is the one that is called a.wav.
        roots = [PurePath(x).parts[: -len(parts)] for x in found]
        of_all = [all(other[: len(root)] == root for other in roots) for root in roots]
        found = list(itertools.compress(found, of_all)) or found
    if len(found) > 1:
        raise ConfigError(f"{table}: {file!r} may be {found[0]} or {found[1]}; give its path")
    if not found and _NO_TEXT.search(file):
        raise ConfigError(f"{table}: {file!r}: not in UTF-8, and no file has that name; save the table as UTF-8")
    return found[0] if found else str(beside)


def _ends_in(path: PurePath, parts: Sequence[str]) -> bool:
    return any(whole.parts[-len(parts) :] == tuple(parts) for whole in (path, path.with_suffix("")))


def _in_folders_of(paths: Sequence[str], folders: tuple[str, ...]) -> list[str]:
    """Those of several paths that are in most of the last ones of these folders."""
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


def _table_lines(path: Path, text: str, elsewhere: Elsewhere) -> Iterator[Line]:
    first = text.partition("\n")[0]
    raven = _is_selections(first)
    delimiter = max("\t,;", key=first.count)
    lines = io.StringIO(text, newline="")
    rows = csv.DictReader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if raven else csv.QUOTE_MINIMAL)
    names = [(name or "").strip() for name in rows.fieldnames or ()]
    rows.fieldnames = names
    file, label, scored = (_column(names, usual) for usual in (FILE_COLUMNS, LABEL_COLUMNS, ("score",)))
    missing = ["the class; name one 'label'"] if label is None else []
    missing += ["the recording; name one 'file'"] if file is None and not raven else []
    if missing:
        has = ", ".join(map(repr, names)) or "none"
        raise ConfigError(f"{path}: its columns are {has}: no column for {', and none for '.join(missing)}")
    start, end = _time_columns(path, names, {file, label, scored})
    lower = [name.lower() for name in names]
    if twice := [name for name in (file, label, scored, start, end) if name and lower.count(name.lower()) > 1]:
        raise ConfigError(f"{path}: has several columns {twice[0]!r}; leave one, or rename the others")
    alone = None if file else _recording_of(path, elsewhere)
    files = set[str]()
    for row in rows:
        if any(surplus := row.get(None) or ()):
            raise ConfigError(
                f"{path}, line {rows.line_num}: {len(names) + len(surplus)} fields under {len(names)} columns; put "
                "labels with commas in quotes, or part the fields by semicolons"
            )
        numbers = [row.get(name or "") or None for name in (start, end, scored, RAVEN_OFFSET)]
        if delimiter == ";":  # where numbers may have a decimal comma
            numbers = [number and number.replace(",", ".") for number in numbers]
        if file and file.lower().startswith("begin ") and start == RAVEN_BEGIN and not numbers[-1]:
            files.add(row[file])
        if len(files) > 1:
            raise ConfigError(
                f"{path}, line {rows.line_num}: a second recording and no {RAVEN_OFFSET!r}, and Raven's times go on "
                f"over all recordings; add this column in Raven, or where they begin anew in each, call {file!r} 'file'"
            )
        yield rows.line_num, row[file] if file else alone, row[label or ""], numbers


def _column(names: Sequence[str], known: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), None)


def _time_columns(path: Path, names: Sequence[str], used: Collection[str | None]) -> list[str | None]:
    """The columns of start and end; None for one that is not there.

    Raises:
        ConfigError: one is not there, and another column may be it.
    """
    left = [name for name in names if name not in used]
    times = [next((x for x in left if known.fullmatch(x.lower())), None) for known in (_START, _END)]
    others = [name for name in left if name not in times]
    perhaps = [name for name in others if _PERHAPS_TIME.search(name.lower())]
    told = ", ".join(map(repr, perhaps or others))
    if not all(times) and (any(times) or perhaps):
        lacking = " and ".join(what for what, name in zip(("start", "end"), times, strict=True) if name is None)
        among = f" among {told}" if told else ""
        raise ConfigError(
            f"{path}: no column is known as its {lacking}{among}; name the columns of times 'start' and 'end', in "
            "seconds, or take them out to have whole recordings"
        )
    if told and not any(times):
        warnings.warn(f"{path}: has no start and end, so whole recordings are meant; not used: {told}", stacklevel=2)
    return times


def _track_lines(path: Path, text: str, elsewhere: Elsewhere) -> Iterator[Line]:
    recording = _recording_of(path, elsewhere)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("\\"):  # a second line holds the frequencies of a label
            continue
        start, end, label, *_ = (*line.split("\t"), "", "")
        scored = _SCORED.fullmatch(label)
        name, score = scored.groups() if scored else (label, None)
        yield number, recording, name, [start.replace(",", "."), end.replace(",", "."), score, None]


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


def _label(where: str, file: str | None, label: str | None, numbers: Sequence[str | None]) -> Label:
    """The label of a line; its start is the offset where Raven's other times go on over all recordings of a table."""
    if not file:
        raise ConfigError(f"{where}: no recording named; fill in its file")
    if not label or not label.strip():
        raise ConfigError(f"{where}: no label; fill it in, or take the line out")
    _check_text(where, label)
    found: list[float | None] = []
    for name, value in zip(("start", "end", "score", RAVEN_OFFSET), numbers, strict=True):
        number = None
        if value is not None:
            with contextlib.suppress(ValueError):
                number = float(value)
            if number is None or not 0 <= number < math.inf:
                raise ConfigError(f"{where}: {name} {value!r}: must be a number from 0 on, without a unit")
        found.append(number)
    start, end, score, offset = found
    if start is not None and end is not None and not start < end:
        raise ConfigError(f"{where}: end {end:g} s is not after start {start:g} s; correct the times")
    if offset is not None:
        start, end = offset, None if end is None else offset + end - (start or 0.0)
    return Label(file, start, end, label.strip(), 1.0 if score is None else score)
