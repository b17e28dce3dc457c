"""Rows and settings to one file of any format, in blocks, so that memory does not grow with their number."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from .files import Format, atomic, guarded, parse_format, resolve, sidecar
from .rows import GrowingArray, npy_header
from .table import INDEX, META, as_utf8

Array = npt.NDArray[Any]


class Matrix(Protocol):
    """Rows of numbers (n, D), of which some are asked for at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, D)."""

    def __getitem__(self, places: Any, /) -> Array:
        """The rows at an array of places, or a slice."""


BLOCK = 1024  # rows at once


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a store in the order of an output.

    Attributes:
        embeddings: (n, D) float32, mapped, in memory or elsewhere.
        spans: (n, 2) float64, seconds.
        files: name, first row and number of rows of each file.
    """

    embeddings: Matrix
    spans: Array
    files: Sequence[tuple[str, int, int]]

    def __len__(self) -> int:
        return sum(count for _, _, count in self.files)

    def blocks(self) -> Iterator[tuple[list[str], Array]]:
        """Names of up to `BLOCK` rows, and their places in the store."""
        names: list[str] = []
        places: list[int] = []
        for name, first, count in self.files:
            for start in range(first, first + count, BLOCK):
                some = range(start, min(start + BLOCK, first + count))
                names += [name] * len(some)
                places += some
                if len(names) >= BLOCK:
                    yield names, np.array(places)
                    names, places = [], []
        if names:
            yield names, np.array(places)


def export(target: Path, form: Format, rows: Rows, settings: Mapping[str, Any]) -> None:
    """Write an output; an older file stays as it was until the new one is complete.

    Args:
        target: see `check_output`.
        form: its format.
        rows: what to write; for npy they are in `target` already.
        settings: everything the rows depend on.
    Raises:
        OSError: cannot be written.
    """
    if form is Format.NPY:
        _write_text(sidecar(target, INDEX), lambda file: index_lines(rows.files, rows.spans))
    else:
        write = {Format.NPZ: _npz, Format.PARQUET: _parquet}.get(form)
        with atomic(target) as file:
            if write is not None:
                write(file, rows, settings)
            else:
                lines = csv_lines if form is Format.CSV else jsonl_lines
                for block in text_blocks(rows, lines):
                    file.write(block)
    if form in (Format.NPY, Format.CSV, Format.JSONL):
        write_meta(target, settings)


def write_npz(
    path: str | os.PathLike[str],
    *,
    embeddings: npt.NDArray[np.float32],
    paths: Sequence[str],
    start: npt.ArrayLike,
    end: npt.ArrayLike,
    settings: Mapping[str, Any],
) -> None:
    """Write a table; an older file at `path` stays as it was until the new one is complete.

    Args:
        path: ends in .npz.
        embeddings: (n, D), stored as float32.
        paths: n names.
        start: (n,) seconds, stored as float64.
        end: (n,) seconds, stored as float64.
        settings: anything that JSON can hold.

    Raises:
        ConfigError: see `check_output`; lengths that differ; settings that JSON cannot hold.
    """
    if parse_format(path) is not Format.NPZ:
        raise ConfigError(f"{path}: not an npz by its name; end it in .npz")
    target = resolve(path)
    rows = _checked(embeddings, paths, start, end)
    try:
        json.dumps(dict(settings))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings: {error}; use plain strings, numbers, lists and dicts") from None
    with guarded(path):
        export(target, Format.NPZ, rows, settings)


def _checked(embeddings: npt.ArrayLike, paths: Sequence[str], start: npt.ArrayLike, end: npt.ArrayLike) -> Rows:
    arrays: dict[str, Array] = {
        "embeddings": np.asarray(embeddings, np.float32),
        "paths": np.asarray(paths, np.str_),
        "start": np.asarray(start, np.float64),
        "end": np.asarray(end, np.float64),
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    counts = {shape[:1] for shape in shapes.values()}
    if len(counts) > 1 or [len(shape) for shape in shapes.values()] != [2, 1, 1, 1]:
        raise ConfigError(f"{shapes}: must be (n, D), (n,), (n,) and (n,); pass one entry a row")
    spans = np.stack([arrays["start"], arrays["end"]], 1)
    return Rows(arrays["embeddings"], spans, [(str(name), i, 1) for i, name in enumerate(paths)])


# Binary formats


def _npz(file: BinaryIO, rows: Rows, settings: Mapping[str, Any]) -> None:
    longest = max((len(name) for name, _, count in rows.files if count), default=1)
    count, names = len(rows), np.dtype(f"<U{max(longest, 1)}")
    width = rows.embeddings.shape[1]
    members: list[tuple[str, Any, tuple[int, ...], Callable[[list[str], Array], Array]]] = [
        ("embeddings", "<f4", (count, width), lambda _, places: rows.embeddings[places]),
        ("paths", names, (count,), lambda block, _: np.array(block)),
        ("start", "<f8", (count,), lambda _, places: rows.spans[places, 0]),
        ("end", "<f8", (count,), lambda _, places: rows.spans[places, 1]),
    ]
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for key, kind, shape, pick in members:
            dtype = np.dtype(kind)
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                member.write(npy_header(dtype, shape))
                for block in rows.blocks():
                    member.write(np.ascontiguousarray(pick(*block), dtype).tobytes())
        texts = {key: settings.get(key, "") for key in ("features", "model")}
        for key, text in {**texts, "settings": json.dumps(dict(settings), ensure_ascii=False)}.items():
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(str(text)), allow_pickle=False)


def _parquet(file: BinaryIO, rows: Rows, settings: Mapping[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kind = pa.list_(pa.float32(), rows.embeddings.shape[1])
    fields = [("file", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("embedding", kind)]
    schema = pa.schema(fields, metadata={"mtslvr": json.dumps(dict(settings))})
    # Numbers that look random: compression and dictionaries cost time and save nothing.
    with parquet.ParquetWriter(file, schema, compression="none", use_dictionary=["file"]) as writer:
        for names, places in rows.blocks():
            flat = pa.array(np.ascontiguousarray(rows.embeddings[places], np.float32).reshape(-1))
            start, end = (pa.array(column) for column in rows.spans[places].T)
            columns = [pa.array(map(as_utf8, names)), start, end, pa.FixedSizeListArray.from_arrays(flat, type=kind)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


# Text formats


def text_blocks(rows: Rows, lines: Callable[..., Iterable[str]]) -> Iterator[bytes]:
    """The text of an output, header first."""
    yield "".join(lines([], rows.embeddings[:0], rows.spans[:0], header=True)).encode()
    for names, places in rows.blocks():
        yield encode(lines(names, rows.embeddings[places], rows.spans[places]))


def encode(lines: Iterable[str]) -> bytes:
    """Bytes of text in which names may be any bytes."""
    return "".join(lines).encode("utf-8", "surrogateescape")


def csv_lines(names: Sequence[str], embeddings: Array, spans: Array, *, header: bool = False) -> Iterator[str]:
    """Lines of csv: file, start, end and one column a number."""
    if header:
        yield ",".join(["file", "start", "end", *(f"e{i}" for i in range(embeddings.shape[1]))]) + "\n"
    # The shortest text that reads back as the same float32.
    for name, span, row in zip(names, spans.tolist(), embeddings, strict=True):
        yield f"{csv_field(name)},{span[0]!r},{span[1]!r},{','.join(np.asarray(row, np.float32).astype(str))}\n"


def jsonl_lines(names: Sequence[str], embeddings: Array, spans: Array, *, header: bool = False) -> Iterator[str]:
    """Lines of JSON objects with file, start, end and embedding."""
    for name, span, row in zip(names, spans.tolist(), embeddings, strict=True):
        numbers = ", ".join(np.asarray(row, np.float32).astype(str))
        yield f'{{"file": {json.dumps(name)}, "start": {span[0]!r}, "end": {span[1]!r}, "embedding": [{numbers}]}}\n'


def csv_field(text: str) -> str:
    """Text quoted where csv needs it."""
    if not any(c in text for c in ',"\r\n'):
        return text
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([text])
    return buffer.getvalue()


# Beside the output


def index_lines(files: Iterable[tuple[str, int, int]], spans: Array) -> Iterator[str]:
    """Lines of the index of an npy: row, file, start, end."""
    yield "row,file,start,end\n"
    for name, first, count in files:
        yield from _rows_of(name, first, spans[first : first + count])


def _rows_of(name: str, first: int, spans: Array) -> Iterator[str]:
    field = csv_field(name)
    for row, (start, end) in enumerate(spans.tolist(), first):
        yield f"{row},{field},{start!r},{end!r}\n"


class IndexWriter:
    """The index of an npy while it grows.

    Args:
        target: the npy.
        entries: what it holds already.
        spans: of all its rows.
    """

    def __init__(self, target: Path, entries: Iterable[Any], spans: GrowingArray) -> None:
        self._spans, path = spans, sidecar(target, INDEX)
        _write_text(path, lambda file: index_lines(map(_triple, entries), spans.map()))
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  # closed by close()

    def add(self, entries: Iterable[Any]) -> None:
        """Note the rows of finished files."""
        lines: list[str] = []
        for name, first, count in map(_triple, entries):
            lines += _rows_of(name, first, self._spans.read(first, first + count))
        self._file.write(encode(lines))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _triple(entry: Any) -> tuple[str, int, int]:
    return entry.name, entry.first, entry.rows


def write_meta(target: Path, settings: Mapping[str, Any]) -> None:
    """What the rows of a format without room for it were made with, as JSON beside it."""
    with atomic(sidecar(target, META)) as file:
        file.write(json.dumps(dict(settings), indent=2).encode() + b"\n")


def _write_text(path: Path, lines: Callable[[BinaryIO], Iterable[str]]) -> None:
    with atomic(path) as file:
        for line in lines(file):
            file.write(encode([line]))
