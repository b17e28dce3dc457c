"""Rows and settings to one file of any format, in blocks: of embeddings, no more than one is in memory."""

from __future__ import annotations

import itertools
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from .files import INDEX, META, Format, atomic, sidecar
from .table import as_utf8

Row: TypeAlias = tuple[str, float, float, bytes]  # file, start and end in seconds, little-endian float32
Block: TypeAlias = tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.float32]]  # names, (k, 2), (k, D)
_BLOCK = 1024  # rows at once


def in_blocks(rows: Iterable[Row]) -> Iterator[Block]:
    """Rows, some at a time, as names, spans and embeddings."""
    rows = iter(rows)
    while block := list(itertools.islice(rows, _BLOCK)):
        names, start, end, embeddings = zip(*block, strict=True)
        yield list(names), np.array([start, end]).T, np.frombuffer(b"".join(embeddings), "<f4").reshape(len(names), -1)


def export(
    target: Path, form: Format, rows: Iterable[Row], shape: tuple[int, int], settings: Mapping[str, Any]
) -> None:
    """Write an output with the settings it was made by; an older file stays until the new one is complete.

    `shape` is the number of rows, which are read once, and of numbers in each.
    """
    index, meta = (sidecar(target, suffix) for suffix in (INDEX, META))
    blocks = in_blocks(rows)
    with atomic(target, [index, meta]) as file:
        if form is Format.NPZ:
            _write_npz(file, blocks, shape, settings)
        elif form is Format.NPY:
            names, spans = _write_matrix(file, blocks, shape)
        elif form is Format.PARQUET:
            _write_parquet(file, blocks, shape[1], settings)
        else:
            file.write(header(form, shape[1]))
            file.writelines(lines(form, blocks))
    if form is Format.NPY:
        with atomic(index) as file:
            file.writelines(_index(names, spans))
    if form in (Format.NPY, Format.CSV, Format.JSONL):
        with atomic(meta) as file:
            file.write(json.dumps(dict(settings), indent=2).encode() + b"\n")


def _write_matrix(
    file: Any, blocks: Iterable[Block], shape: tuple[int, int]
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Write the embeddings as an npy; gives what that does not hold, the name and the span of each row."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    names, spans = [], [np.empty((0, 2))]
    for some, times, embeddings in blocks:
        file.write(embeddings.tobytes())
        names += some
        spans.append(times)
    return names, np.concatenate(spans)


def _write_npz(file: BinaryIO, blocks: Iterable[Block], shape: tuple[int, int], settings: Mapping[str, Any]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as member:
            names, spans = _write_matrix(member, blocks, shape)
        said = {key: settings.get(key, "") for key in ("features", "model")}
        said["settings"] = json.dumps(dict(settings), ensure_ascii=False)
        columns = {"paths": names, "start": spans[:, 0], "end": spans[:, 1], **said}
        for key, column in columns.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                array = np.asarray(column) if key in ("start", "end") else np.asarray(column, np.str_)
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_parquet(file: BinaryIO, blocks: Iterable[Block], width: int, settings: Mapping[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kind = pa.list_(pa.float32(), width)
    fields = [("file", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("embedding", kind)]
    schema = pa.schema(fields, metadata={"mtslvr": json.dumps(dict(settings))})
    # Numbers that look random: compression and dictionaries cost time and save nothing.
    with parquet.ParquetWriter(file, schema, compression="none", use_dictionary=["file"]) as writer:
        for names, spans, embeddings in blocks:
            lists = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), type=kind)
            columns = [pa.array(map(as_utf8, names)), *map(pa.array, spans.T), lists]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def header(form: Format, width: int) -> bytes:
    """What csv begins with; jsonl begins with its first row."""
    columns = ["file", "start", "end", *(f"e{i}" for i in range(width))]
    return ",".join(columns).encode() + b"\n" if form is Format.CSV else b""


def lines(form: Format, blocks: Iterable[Block]) -> Iterator[bytes]:
    """Rows as csv or jsonl, in which names may be any bytes."""
    for names, spans, embeddings in blocks:
        for name, (start, end), row in zip(names, spans.tolist(), embeddings, strict=True):
            numbers = row.astype(str)  # the shortest text that reads back as the same float32
            if form is Format.CSV:
                line = f"{_csv_field(name)},{start!r},{end!r},{','.join(numbers)}"
            else:
                times = f'"start": {start!r}, "end": {end!r}'
                line = f'{{"file": {json.dumps(name)}, {times}, "embedding": [{", ".join(numbers)}]}}'
            yield _encode(line)


def _index(names: list[str], spans: npt.NDArray[np.float64]) -> Iterator[bytes]:
    """Lines that say of each row of an npy which file it is of, from where to where."""
    yield b"row,file,start,end\n"
    for row, (name, (start, end)) in enumerate(zip(names, spans.tolist(), strict=True)):
        yield _encode(f"{row},{_csv_field(name)},{start!r},{end!r}")


def _csv_field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def _encode(line: str) -> bytes:
    return line.encode("utf-8", "surrogateescape") + b"\n"
