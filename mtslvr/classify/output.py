"""Labels to files: one table, or a track or selection table for each recording, each written whole or not at all."""

from __future__ import annotations

import enum
import importlib.util
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..errors import ConfigError
from ..run.files import atomic, guarded, resolve
from .labels import (
    CSV_COLUMNS,
    Label,
    Recording,
    Row,
    audacity_text,
    csv_text,
    jsonl_text,
    label_row,
    parquet_bytes,
    raven_text,
)  # fmt: skip


class LabelFormat(str, enum.Enum):
    """What labels are written as."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    AUDACITY = "audacity"
    RAVEN = "raven"


TABLES = (LabelFormat.CSV, LabelFormat.JSONL, LabelFormat.PARQUET)
_TRACK_SUFFIX = {LabelFormat.AUDACITY: ".txt", LabelFormat.RAVEN: ".Table.1.selections.txt"}


def check_labels_output(out: str | os.PathLike[str], given: str | None, *, per_file: bool = False) -> LabelFormat:
    """Find out before the work starts that labels can be written to `out`.

    Args:
        out: a file, or for tracks and selection tables a folder, which is made where there is none.
        given: the format; None is that of the suffix.
        per_file: a row a recording is to be written.
    Returns:
        The format.
    Raises:
        ConfigError: unknown suffix, a format that cannot hold it, a missing folder, no permission, no pyarrow.
    """
    suffix = Path(out).suffix.lower().removeprefix(".")
    known = [form.value for form in LabelFormat]
    if given is None and suffix not in {form.value for form in TABLES}:
        raise ConfigError(
            f"{out}: no format by the suffix {Path(out).suffix!r}; end the name in .csv, .jsonl or .parquet, or give "
            "--format audacity or raven"
        )
    if (name := given or suffix) not in known:
        raise ConfigError(f"{out}: unknown format {given!r}; choose one of {', '.join(known)}")
    form = LabelFormat(name)
    if per_file and form not in TABLES:
        raise ConfigError(f"{out}: a row a recording has no times, which {name} is made of; choose csv, jsonl, parquet")
    if form is LabelFormat.PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"{out}: parquet needs pyarrow; pip install 'mtslvr[parquet]'")
    check_folder(Path(out)) if _is_folder(Path(out), form) else check_file(Path(out))
    return form


def check_file(path: Path) -> None:
    """See that a file can be written.

    Raises:
        ConfigError: a folder, in a missing folder, or no permission.
    """
    target = resolve(path)
    if not os.access(target.parent, os.W_OK):
        raise ConfigError(f"{path}: its folder cannot be written; choose another")


def check_folder(path: Path) -> None:
    """See that files can be written to a folder, which need not be there.

    Raises:
        ConfigError: a file, in a missing folder, or no permission.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: exists and is not a folder; choose another name")
    parent = path if path.exists() else path.resolve().parent
    if not parent.is_dir():
        raise ConfigError(f"{path}: folder {str(parent)!r} does not exist; make it with mkdir -p")
    if not os.access(parent, os.W_OK):
        raise ConfigError(f"{path}: its folder cannot be written; choose another")


def _is_folder(out: Path, form: LabelFormat) -> bool:
    return form not in TABLES and (out.is_dir() or out.suffix.lower() != ".txt")


def write_file(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all; folders above it are made.

    Raises:
        ConfigError: it cannot be written.
    """
    content = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
    with guarded(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(resolve(path)) as file:
            file.write(content)


def write_labels(out: Path, form: LabelFormat, labels: Sequence[Label], recordings: Sequence[Recording]) -> None:
    """Write labels.

    Args:
        out: see `check_labels_output`.
        form: likewise.
        labels: those of a recording one after the other.
        recordings: all that were looked at, also those without labels.
    Raises:
        ConfigError: it cannot be written, or one track is wanted for several recordings.
    """
    if form in TABLES:
        return write_rows(out, form, [label_row(label) for label in labels], CSV_COLUMNS)
    if not _is_folder(out, form):
        if form is LabelFormat.AUDACITY and len(recordings) > 1:
            raise ConfigError(
                f"{out}: a label track is of one recording, and there are {len(recordings)}; name a folder"
            )
        text = audacity_text(labels) if form is LabelFormat.AUDACITY else raven_text(labels, recordings)
        return write_file(out, text)
    of_recording: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        of_recording[label.file].append(label)
    for recording, place in zip(recordings, _places(recordings, _TRACK_SUFFIX[form]), strict=True):
        mine = of_recording[recording.name]
        text = audacity_text(mine) if form is LabelFormat.AUDACITY else raven_text(mine, [recording])
        write_file(out / place, text)


def _places(recordings: Sequence[Recording], suffix: str) -> list[str]:
    """Where in the folder each recording's file goes: named as the recording, in its folder."""
    names = [
        PurePosixPath(*(part for part in PurePosixPath(x.name).parts if part not in ("/", ".."))) for x in recordings
    ]
    stems = Counter(name.with_suffix("") for name in names)
    return [f"{name if stems[name.with_suffix('')] > 1 else name.with_suffix('')}{suffix}" for name in names]


def write_rows(out: Path, form: LabelFormat, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Write a table.

    Raises:
        ConfigError: it cannot be written.
    """
    if form is LabelFormat.PARQUET:
        return write_file(out, parquet_bytes(rows, columns))
    return write_file(out, csv_text(rows, columns) if form is LabelFormat.CSV else jsonl_text(rows))
