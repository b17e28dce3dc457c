"""Labels to files: one table, or a track or selection table for each recording; and clips for people to listen to."""

from __future__ import annotations

import csv
import enum
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

import numpy as np
import numpy.typing as npt
import soundfile

from ..audio.load import load_parts
from ..errors import AudioError, ConfigError
from ..run.files import remove_parts, resolve, write_file, wrong_suffix
from ..run.table import as_utf8
from .examples import clip_name
from .labels import RAVEN_BEGIN, RAVEN_OFFSET, Label

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
_TRACK_SUFFIX = {LabelFormat.AUDACITY: ".txt", LabelFormat.RAVEN: ".Table.1.selections.txt"}


def check_labels_output(out: Path, given: str | None, *, per_file: bool = False) -> LabelFormat:
    """The format of `out`, `given` or by its suffix, once it is sure that labels, or rows a file, can be written."""
    name = given or out.suffix.lower().removeprefix(".")
    if given is None and name not in {form.value for form in TABLES}:
        raise wrong_suffix(out, [".csv", ".jsonl", ".parquet"], ", or give --format audacity or raven")
    form = LabelFormat(name)
    if not 0 < len(os.fsencode(out.name)) <= 200:  # more stands behind it in names of files beside it
        raise ConfigError(f"{out}: a name of 1 to 200 bytes is expected, other than . and ..; choose another")
    if per_file and form not in TABLES:
        raise ConfigError(f"{out}: a row a recording has no times, which {name} is made of; choose csv, jsonl, parquet")
    if form is LabelFormat.PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"{out}: parquet needs pyarrow; pip install 'mtslvr[parquet]'")
    if _is_folder(out, form):
        check_folder(out)
    elif form is LabelFormat.AUDACITY:
        raise ConfigError(f"{out}: a label track is of one recording; name a folder, which gets a track for each")
    else:
        resolve(out, writable=True)
    return form


def check_folder(path: Path) -> None:
    """Refuse a folder, which need not be there, to which no files can be written."""
    if os.path.isfile(path):
        raise ConfigError(f"{path}: exists and is not a folder; choose another name")
    if not os.access(path if os.path.isdir(path) else resolve(path).parent, os.W_OK):
        raise ConfigError(f"{path}: its folder cannot be written; choose another")


def _is_folder(out: Path, form: LabelFormat) -> bool:
    return form not in TABLES and (os.path.isdir(out) or out.suffix.lower() != ".txt")


def label_files(
    out: Path, form: LabelFormat, labels: Sequence[Label], recordings: Sequence[Recording]
) -> dict[Path, bytes]:
    """The files that hold the labels of all recordings, those without labels among them, and what is in each."""
    if form in TABLES:
        return {out: table_bytes(form, [label_row(label) for label in labels], CSV_COLUMNS)}
    text = audacity_text if form is LabelFormat.AUDACITY else raven_text
    if not _is_folder(out, form):
        return {out: _encoded(text(labels, recordings))}
    of_recording: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        of_recording[label.file].append(label)
    places = _places(form, [recording.name for recording in recordings])
    return {out / place: _encoded(text(of_recording[x.name], [x])) for place, x in zip(places, recordings, strict=True)}


def write_label_files(files: Mapping[Path, bytes], *, overwrite: bool = False) -> None:
    """Write files, but for those that hold this already.

    Raises:
        ConfigError: one holds anything else and is not to be overwritten; then none is written.
    """
    other = [path for path, content in files.items() if not path.is_file() or path.read_bytes() != content]
    if not overwrite and (kept := [path for path in other if path.exists()]):
        which = f"{kept[0]} and {len(kept) - 1} more hold" if kept[1:] else f"{kept[0]}: holds"
        raise ConfigError(
            f"{which} other labels than are found now, perhaps corrected by hand; nothing is written, and embeddings "
            "are kept: choose another -o, or replace what is there with --overwrite"
        )
    remove_parts(other)
    for path in other:
        write_file(path, files[path], parents=True)


def table_bytes(form: LabelFormat, rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """A file with a table."""
    if form is LabelFormat.PARQUET:
        return _parquet_bytes(rows, columns)
    return _encoded(csv_text(rows, columns) if form is LabelFormat.CSV else "".join(f"{json.dumps(x)}\n" for x in rows))


def _encoded(text: str) -> bytes:
    """Text with the names of files, which may be any bytes."""
    return text.encode("utf-8", "surrogateescape")


def _places(form: LabelFormat, recordings: Sequence[str]) -> list[str]:
    """Where in the folder the file of each recording goes: named as the recording, in its folder."""
    names = [PurePosixPath(*(part for part in PurePosixPath(x).parts if part not in ("/", ".."))) for x in recordings]
    stems = Counter(name.with_suffix("") for name in names)
    places = dict[str, None]()
    for name in names:
        place = name if stems[name.with_suffix("")] > 1 else name.with_suffix("")
        while f"{place}{_TRACK_SUFFIX[form]}" in places:
            place = place.with_name(f"{place.name}_")
        places[f"{place}{_TRACK_SUFFIX[form]}"] = None
    return list(places)


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


def _parquet_bytes(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
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


def read_clip(recording: Recording, start: float, end: float) -> tuple[npt.NDArray[np.float32], int]:
    """A part of what was embedded of a recording, and its rate: its own where libsndfile can go to the place."""
    if not os.path.exists(recording.path):
        raise AudioError(f"{recording.path}: not there any more; say with --audio in which folder the recordings are")
    try:
        with soundfile.SoundFile(os.fsencode(recording.path) if os.name == "posix" else recording.path) as file:
            if file.seekable() and 0 < file.frames < 1 << 40:
                file.seek(min(round(start * file.samplerate), file.frames))
                samples = file.read(round((end - start) * file.samplerate), "float32", always_2d=True)
                samples = samples.mean(axis=1) if recording.channel == "mix" else samples[:, recording.channel]
                if samples.size:
                    return samples, file.samplerate
    except (OSError, RuntimeError, IndexError):  # the last for a channel that is not there any more
        pass
    [samples], _ = load_parts(recording.path, recording.sample_rate, [(start, end)], recording.channel)
    if samples.size == 0:
        raise AudioError(f"{recording.path}: ends before {start:g} s; embed it again")
    return samples, recording.sample_rate


def audio_bytes(samples: npt.NDArray[np.float32], rate: int, form: str) -> bytes:
    """A file of 16 bits in the format WAV or FLAC."""
    out = io.BytesIO()
    soundfile.write(out, np.clip(samples, -1, 1), rate, format=form, subtype="PCM_16")
    return out.getvalue()


def write_clips(places: Iterable[Label], recordings: Mapping[str, Recording], folder: Path) -> list[Path]:
    """Write each place as a clip named by its recording, time, class and probability.

    None is left where one fails or the user interrupts, so that the same call can be made again.
    """
    paths: list[Path] = []
    try:
        for place in places:
            start, end = place.start or 0.0, place.end or 0.0
            samples, rate = read_clip(recordings[place.file], start, end)
            paths.append(folder / clip_name(os.path.splitext(place.file)[0], start, place.label, place.score))
            write_file(paths[-1], audio_bytes(samples, rate, "WAV"), parents=True)
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    return paths
