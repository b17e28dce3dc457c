"""Any output back to arrays; `mtslvr plot`, `mtslvr similar` and `recorder` read with it."""

from __future__ import annotations

import csv
import enum
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import Features, Layer
from ..errors import ConfigError
from .files import INDEX, META, sidecar

if TYPE_CHECKING:
    import pandas
    import polars

FORMAT_VERSION = 1
SETTINGS = {
    "model": str, "model_sha256": str, "features": Features, "layer": Layer, "window_seconds": float,
    "hop_seconds": float, "encoder": {"frontend": {"sample_rate": float}},
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddingTable:
    """What an output holds: one row a window, or one a file.

    Attributes:
        embeddings: (n, D) float32.
        paths: n names of the files the rows come from.
        start: (n,) float64, seconds.
        end: (n,) float64, seconds.
        settings: what the rows were made with; empty where that is not known.
    """

    embeddings: npt.NDArray[np.float32]
    paths: tuple[str, ...]
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    settings: dict[str, Any]

    def __repr__(self) -> str:
        return f"EmbeddingTable(embeddings of shape {self.embeddings.shape}, {len(set(self.paths))} files)"

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a frame of D columns, indexed by file, start and end as audinterface does, in Timedelta."""
        import pandas

        times = (pandas.to_timedelta(column, unit="s") for column in (self.start, self.end))
        index = pandas.MultiIndex.from_arrays([list(map(as_utf8, self.paths)), *times], names=["file", "start", "end"])
        return pandas.DataFrame(np.asarray(self.embeddings), index)

    def to_polars(self) -> polars.DataFrame:
        """The rows as a frame of file, start and end in seconds, and embedding, an array of D numbers."""
        import polars

        times = {"start": np.asarray(self.start), "end": np.asarray(self.end)}
        columns = {"file": list(map(as_utf8, self.paths)), **times, "embedding": np.asarray(self.embeddings)}
        kinds = polars.String, polars.Float64, polars.Float64, polars.Array(polars.Float32, self.embeddings.shape[1])
        return polars.DataFrame(columns, dict(zip(columns, kinds, strict=True)))


def read_table(path: str | os.PathLike[str]) -> EmbeddingTable:
    """Read an output of mtslvr-embed, whatever its format; an npy is mapped, the others are read into memory.

    Args:
        path: .npz, .npy, .parquet, .csv or .jsonl, with what lies beside it.

    Raises:
        ConfigError: missing, not such a file, or of a later version.
    """
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"{path}: not embeddings but a folder; embed its files first: mtslvr-embed {path} -o OUT")
    if not file.exists():
        raise ConfigError(f"{path}: no such file; check the path")
    try:
        table = _reader(file)(file)
        version = table.settings.get("format_version", 0)
        if version > FORMAT_VERSION:
            by = f"written by mtslvr {table.settings.get('mtslvr', '?')} in format {version}"
            raise ConfigError(f"{path}: {by}, and this reads up to {FORMAT_VERSION}; upgrade mtslvr")
        check_types(table.settings, SETTINGS)
        if table.embeddings.dtype.kind != "f" or not {str}.issuperset(map(type, table.paths)):
            raise ValueError(f"embeddings of type {table.embeddings.dtype}, names {table.paths[:1]}")
        lengths = {len(table.embeddings), len(table.paths), len(table.start), len(table.end)}
        if len(lengths) > 1 or table.embeddings.ndim != 2:
            raise ValueError(f"embeddings {table.embeddings.shape} of {len(table.paths)} rows")
        if not np.all((table.start >= 0) & (table.end >= table.start) & (table.end < np.inf)):
            raise ValueError("a start or an end that is no time in seconds")
        return table
    except ConfigError:
        raise
    except Exception as error:  # whatever a damaged file makes a library raise
        said = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ConfigError(f"{path}: not embeddings ({said}); write them with mtslvr-embed") from error


def check_types(found: Any, kind: Any, name: str = "settings", *, whole: bool = False) -> None:
    """Raise a ValueError where JSON is not of a kind: a type, float being any finite number, an enum, or named fields.

    Fields may be missing unless it is to be whole.
    """
    if isinstance(kind, Mapping):
        check_types(found, dict, name)
        for key in kind:
            if key in found:
                check_types(found[key], kind[key], key, whole=whole)
            elif whole:
                raise ValueError(f"no {key}")
    elif issubclass(kind, enum.Enum):
        kind(found)
    elif not isinstance(found, (int, float) if kind is float else kind) or (
        kind is float and (isinstance(found, bool) or not abs(found) <= sys.float_info.max)
    ):
        raise ValueError(f"its {name!r} is {found!r:.60}")


def _reader(path: Path) -> Callable[[Path], EmbeddingTable]:
    """What reads a file, by its first bytes: a name may say anything with --format."""
    with open(path, "rb") as file:
        head = file.read(6)
    for begin, read in ((b"PK\x03\x04", _read_npz), (b"\x93NUMPY", _read_npy), (b"PAR1", _read_parquet)):
        if head.startswith(begin):
            return read
    return _read_jsonl if head[:1] == b"{" or _read_meta(path).get("format") == "jsonl" else _read_csv


def _read_npz(path: Path) -> EmbeddingTable:
    with open(path, "rb") as binary, np.load(binary, allow_pickle=False) as file:
        columns = file["embeddings"], tuple(file["paths"].tolist()), file["start"], file["end"]
        return EmbeddingTable(*columns, dict(json.loads(str(file["settings"]))))


def _read_npy(path: Path) -> EmbeddingTable:
    before = os.stat(path)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    rows, names, start, end = [], [], [], []
    for row, name, first, last in _csv_rows(sidecar(path, INDEX), ["row", "file", "start", "end"]):
        rows.append(int(row))
        names.append(sys.intern(name))  # one string for all rows of a file
        start.append(float(first))
        end.append(float(last))
    if not os.path.samestat(before, os.stat(path)):
        raise ValueError("replaced by another output while it was read; read it again")
    # Rows that the index does not list are those of files that have others now, or of a run that was killed.
    in_order = rows == list(range(len(rows)))
    embeddings = array[: len(rows)] if in_order else array[np.array(rows)]
    return EmbeddingTable(embeddings, tuple(names), np.array(start), np.array(end), _read_meta(path))


def _read_parquet(path: Path) -> EmbeddingTable:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ConfigError(f"{path}: parquet needs pyarrow; pip install 'mtslvr[parquet]'") from None
    try:
        table = parquet.read_table(path)
        column = table.column("embedding").combine_chunks()
        flat, width = column.flatten().to_numpy(), column.type.list_size
        settings = json.loads((table.schema.metadata or {}).get(b"mtslvr", b"{}"))
        start, end = (table.column(name).to_numpy() for name in ("start", "end"))
        names = map(from_utf8 if settings else str, table.column("file").to_pylist())
        return EmbeddingTable(flat.reshape(-1, width), tuple(names), start, end, settings)
    except ArrowException as error:
        raise ValueError(str(error).splitlines()[0]) from error


def _read_csv(path: Path) -> EmbeddingTable:
    return _from_text(path, _csv_rows(path, ["file", "start", "end", "e0"]))


def _read_jsonl(path: Path) -> EmbeddingTable:
    with open(path, encoding="utf-8") as file:
        records = map(json.loads, file)
        return _from_text(path, ((each["file"], each["start"], each["end"], *each["embedding"]) for each in records))


def _from_text(path: Path, records: Iterable[Sequence[Any]]) -> EmbeddingTable:
    """A table of name, start, end and numbers of each row; without rows, its width is not known."""
    names, spans, rows = [], [], []
    for name, start, end, *row in records:
        names.append(name)
        spans.append((float(start), float(end)))
        rows.append(np.array(row, np.float64).astype(np.float32))
    times = np.array(spans, np.float64).reshape(-1, 2)
    embeddings = np.stack(rows) if names else np.empty((0, 0), np.float32)
    return EmbeddingTable(embeddings, tuple(names), times[:, 0], times[:, 1], _read_meta(path))


def _csv_rows(path: Path, columns: list[str]) -> Iterator[list[str]]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header[: len(columns)] != columns:
            raise ValueError(f"{path.name} does not begin with the columns {', '.join(columns)}")
        for row in rows:
            if len(row) != len(header):
                said = f"{len(row)} columns, where there are {len(header)}"
                raise ValueError(f"{path.name}, line {rows.line_num}: {said}")
            yield row


def as_utf8(name: str) -> str:
    r"""A name on Linux may be any bytes, and parquet takes UTF-8 only: others are \xe9, as in no other name."""
    told_apart = re.sub(r"(\\+)(?=x[89a-f][0-9a-f]|[\udc80-\udcff])", r"\1\1", name)
    return os.fsencode(told_apart).decode("utf-8", "backslashreplace")


def from_utf8(text: str) -> str:
    """The name of which `as_utf8` made a text."""

    def undo(found: re.Match[str]) -> str:
        slashes, byte = found.groups()
        return "\\" * (len(slashes) // 2) + (chr(0xDC00 + int(byte[1:], 16)) if len(slashes) % 2 else byte)

    name = re.sub(r"(\\+)(x[89a-f][0-9a-f])", undo, text)
    return name if sys.getfilesystemencoding() == "utf-8" else os.fsdecode(name.encode("utf-8", "surrogateescape"))


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(sidecar(path, META).read_bytes()))
    except FileNotFoundError:
        return {}
