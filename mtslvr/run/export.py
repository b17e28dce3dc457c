"""Rows and settings to one file of any format, in blocks, so that memory does not grow with their number."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .files import Format, atomic, sidecar
from .table import INDEX, META, as_utf8

Array = npt.NDArray[Any]
BLOCK = 1024  # rows at once


@dataclass(frozen=True, eq=False)
class Rows:
    """What an output is to hold, in its order."""

    files: Sequence[tuple[str, int]]  # name and number of rows
    spans: Array  # (n, 2) float64, seconds
    width: int  # numbers a row
    embeddings: Callable[[], Iterable[Array]]  # in blocks (k, width) float32, from the beginning at each call

    def names(self) -> Iterator[str]:
        """The file of each row."""
        return itertools.chain.from_iterable(itertools.repeat(name, count) for name, count in self.files)

    def blocks(self) -> Iterator[tuple[list[str], Array, Array]]:
        """Names, embeddings and spans of up to `BLOCK` rows at a time."""
        names, first = self.names(), 0
        for block in self.embeddings():
            last = first + len(block)
            yield list(itertools.islice(names, len(block))), block, self.spans[first:last]
            first = last


def export(target: Path, form: Format, rows: Rows, settings: Mapping[str, Any]) -> None:
    """Write an output with the settings it was made by; an older file stays until the new one is complete."""
    write = {Format.NPZ: _npz, Format.NPY: _npy, Format.PARQUET: _parquet, Format.CSV: _csv, Format.JSONL: _jsonl}
    with atomic(target, [sidecar(target, suffix) for suffix in (INDEX, META)]) as file:
        write[form](file, rows, settings)
    if form is Format.NPY:
        _write_index(target, rows)
    if form in (Format.NPY, Format.CSV, Format.JSONL):
        with atomic(sidecar(target, META)) as file:
            file.write(json.dumps(dict(settings), indent=2).encode() + b"\n")


def in_blocks(array: Array) -> Iterator[Array]:
    """An array, or what is indexed like one, in slices of `BLOCK` rows."""
    return (array[first : first + BLOCK] for first in range(0, len(array), BLOCK))


# Binary formats


def _npz(file: BinaryIO, rows: Rows, settings: Mapping[str, Any]) -> None:
    longest = max((len(name) for name, _ in rows.files), default=1)
    count, names = len(rows.spans), f"<U{longest}"
    members: list[tuple[str, Any, tuple[int, ...], Callable[[], Iterable[Array]]]] = [
        ("embeddings", "<f4", (count, rows.width), rows.embeddings),
        ("paths", names, (count,), lambda: (np.array([name]) for name in rows.names())),
        ("start", "<f8", (count,), lambda: [rows.spans[:, 0]]),
        ("end", "<f8", (count,), lambda: [rows.spans[:, 1]]),
    ]
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for key, kind, shape, blocks in members:
            dtype = np.dtype(kind)
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                member.write(npy_header(dtype, shape))
                for block in blocks():
                    member.write(np.ascontiguousarray(block, dtype).tobytes())
        texts = {key: settings.get(key, "") for key in ("features", "model")}
        for key, text in {**texts, "settings": json.dumps(dict(settings), ensure_ascii=False)}.items():
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(str(text)), allow_pickle=False)


def _npy(file: BinaryIO, rows: Rows, settings: Mapping[str, Any]) -> None:
    file.write(npy_header(np.dtype("<f4"), (len(rows.spans), rows.width)))
    for block in rows.embeddings():
        file.write(np.ascontiguousarray(block, "<f4").tobytes())


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What a .npy file begins with."""
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def _parquet(file: BinaryIO, rows: Rows, settings: Mapping[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kind = pa.list_(pa.float32(), rows.width)
    fields = [("file", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("embedding", kind)]
    schema = pa.schema(fields, metadata={"mtslvr": json.dumps(dict(settings))})
    # Numbers that look random: compression and dictionaries cost time and save nothing.
    with parquet.ParquetWriter(file, schema, compression="none", use_dictionary=["file"]) as writer:
        for names, embeddings, spans in rows.blocks():
            flat = pa.array(np.ascontiguousarray(embeddings, np.float32).reshape(-1))
            start, end = (pa.array(column) for column in spans.T)
            columns = [pa.array(map(as_utf8, names)), start, end, pa.FixedSizeListArray.from_arrays(flat, type=kind)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


# Text formats


def _csv(file: BinaryIO, rows: Rows, settings: Mapping[str, Any]) -> None:
    file.write(encode(csv_lines([], np.empty((0, rows.width)), rows.spans[:0], header=True)))
    for block in rows.blocks():
        file.write(encode(csv_lines(*block)))


def _jsonl(file: BinaryIO, rows: Rows, settings: Mapping[str, Any]) -> None:
    for block in rows.blocks():
        file.write(encode(jsonl_lines(*block)))


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
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


# Beside the output


def _write_index(target: Path, rows: Rows) -> None:
    """The index of an npy: row, file, start and end of each row."""
    with atomic(sidecar(target, INDEX)) as file:
        file.write(b"row,file,start,end\n")
        for row, (name, span) in enumerate(zip(rows.names(), rows.spans, strict=True)):
            file.write(encode([f"{row},{csv_field(name)},{float(span[0])!r},{float(span[1])!r}\n"]))
