"""Which places of an embeddings file are nearest to a sound; `mtslvr similar` prints them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .api import embed
from .audio.load import Excerpt, channel_of, iter_blocks, load_parts
from .config import EncoderConfig
from .errors import AudioError, ConfigError
from .models import checkpoint
from .models.hub import find, load
from .nn.encoder import Encoder
from .run.table import EmbeddingTable, read_table

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

SHORTEST = 0.1  # seconds of a sound that is compared, or an example
_BLOCK = 8192  # rows at once
_CHECK_RATE = 16_000  # Hz
_TOUCHING = 1e-6  # seconds
_BEYOND = 0.1  # seconds by which a part may end after its file, whose length people round
_PART = re.compile(r"(.+):(\d+(?:\.\d*)?)-(\d+(?:\.\d*)?)", re.DOTALL)


@dataclass(frozen=True)
class Hit:
    """A place, or a file, that is near."""

    rank: int  # from 1
    score: float  # cosine similarity, -1 to 1
    file: str  # its name in the table
    start: float  # in seconds, of the nearest row, or of all that were joined
    end: float
    query: int = 0  # which of several queries it is nearest to


class Query(NamedTuple):
    """A sound, or the part of it from `start` to `end` in seconds."""

    path: str
    start: float | None = None
    end: float | None = None

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> Query:
        """Read `call.wav`, or `call.wav:12.5-14` for a part, unless a file has that name.

        Raises:
            ConfigError: an end that is not after the start, or another form of times.
        """
        path = os.fspath(text)
        found = None if os.path.exists(path) else _PART.fullmatch(path)
        if found is None:
            file = path.partition(":")[0]
            if file != path and os.path.isfile(file) and not os.path.exists(path):
                raise ConfigError(f"{path}: not a part of {file}; give it in seconds, as {file}:12.5-14")
            return cls(path)
        start, end = float(found[2]), float(found[3])
        if not start < end:
            raise ConfigError(f"{path}: end {end:g} s is not after start {start:g} s; correct the times")
        return cls(found[1], start, end)


def similar(
    table: EmbeddingTable | str | os.PathLike[str],
    queries: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    k: int = 10,
    threshold: float | None = None,
    per_file: bool = False,
    model: str | None = None,
    device: str = "auto",
) -> list[Hit]:
    """The places of a table that sound most like a query, nearest first.

    Args:
        table: an output of mtslvr-embed, or what `read_table` makes of it.
        queries: a path, or several, a row's score being that of the nearest; "call.wav:12.5-14" is a part of a file.
        k: see `nearest`, as `threshold` and `per_file`.
        model: where the weights are, if not where they were.
        device: see `mtslvr.load`.

    Raises:
        AudioError: a query that cannot be read, is silent, or shorter than a tenth of a second.
        ConfigError: see `nearest` and `table_encoder`; a part outside its file.
    """
    path = "table" if isinstance(table, EmbeddingTable) else table
    found = table if isinstance(table, EmbeddingTable) else read_table(table)
    given = [queries] if isinstance(queries, (str, os.PathLike)) else queries
    parsed = [Query.parse(query) for query in given]
    if not parsed:
        raise ConfigError("no queries; give at least one sound")
    for query in parsed:  # before the weights are looked for
        _check_query(query, found.settings.get("channel", "mix"))
    encoder = table_encoder(path, found.settings, model, device)
    rows = np.stack([_embed_query(query, found.settings, encoder) for query in parsed])
    return nearest(found, rows, k, threshold, per_file=per_file)


def nearest(
    table: EmbeddingTable, queries: Float32, k: int = 10, threshold: float | None = None, *, per_file: bool = False
) -> list[Hit]:
    """The places of a table nearest to queries by cosine; rows that touch or overlap a nearer one are the same place.

    Args:
        table: from `read_table`, the rows of a file one after the other, in order.
        queries: (D,) or (q, D), of which the nearest counts.
        k: how many places.
        threshold: the least cosine. A place then reaches over all neighbouring rows that have it.
        per_file: each file once, by its nearest row.

    Raises:
        ConfigError: `k` below 1, no rows, another width, a threshold that is no cosine, or rows that are no numbers.
    """
    _check(table, queries, k, threshold)
    each = np.stack([cosine(table.embeddings, query) for query in np.atleast_2d(queries)])
    scores: Float64 = each.max(axis=0)
    if (wrong := np.flatnonzero(~np.isfinite(scores))).size:
        raise ConfigError(f"{table.paths[wrong[0]]}: {wrong.size} of {len(scores)} rows are no numbers; embed it again")
    taken, files = np.zeros(len(scores), dtype=bool), set()
    hits: list[Hit] = []
    for row in np.argsort(-scores, kind="stable"):
        if len(hits) == k or (threshold is not None and scores[row] < threshold):
            break
        if taken[row] or (per_file and table.paths[row] in files):
            continue
        files.add(table.paths[row])
        joined = [row, *(at for step in (-1, 1) for at in _neighbours(table, scores, row, step, threshold))]
        taken[joined] = True
        shown = [row] if per_file or threshold is None else joined
        start, end = float(table.start[shown].min()), float(table.end[shown].max())
        hits.append(Hit(len(hits) + 1, float(scores[row]), table.paths[row], start, end, int(each[:, row].argmax())))
    return hits


def _check(table: EmbeddingTable, queries: Float32, k: int, threshold: float | None) -> None:
    if k < 1:
        raise ConfigError(f"k={k}: must be at least 1")
    if threshold is not None and not -1 <= threshold <= 1:
        raise ConfigError(f"threshold={threshold!r}: must be a cosine from -1 to 1")
    width = table.embeddings.shape[1]
    if len(table.paths) == 0 or queries.shape[-1] != width:
        raise ConfigError(
            f"query of {queries.shape[-1]} numbers, {len(table.paths)} rows of {width}: cannot be compared"
        )


def _neighbours(table: EmbeddingTable, scores: Float64, row: int, step: int, threshold: float | None) -> Iterator[int]:
    """Rows on one side of a row that belong to its place."""
    start, end, at = table.start[row], table.end[row], row + step
    while 0 <= at < len(scores) and table.paths[at] == table.paths[row]:
        if table.start[at] > end + _TOUCHING or table.end[at] < start - _TOUCHING:
            return
        if threshold is not None:
            if scores[at] < threshold:
                return
            start, end = min(start, table.start[at]), max(end, table.end[at])
        yield at
        at += step


def cosine(embeddings: npt.NDArray[np.float32], query: npt.NDArray[np.float32]) -> Float64:
    """Cosine similarity (n,) of rows (n, D) and a query (D,), 0 where either is all zeros."""
    unit = np.asarray(query, np.float64)
    unit = unit / max(float(np.linalg.norm(unit)), 1e-30)
    scores = np.empty(len(embeddings))
    for first in range(0, len(embeddings), _BLOCK):
        rows = np.asarray(embeddings[first : first + _BLOCK], np.float64)
        with np.errstate(invalid="ignore"):  # infinite numbers, whose cosine is none
            scores[first : first + _BLOCK] = rows @ unit / np.maximum(np.linalg.norm(rows, axis=1), 1e-30)
    return scores


def check_times(what: str, start: float | None, end: float | None, seconds: float) -> None:
    """Raise a ConfigError where a part of a file of so many seconds, called `what`, does not lie within it."""
    if (start or 0) >= seconds or (end or 0) > seconds + _BEYOND:
        told = f"{start or 0:g} to {seconds if end is None else end:g} s"
        raise ConfigError(f"{what} is at {told}, and the recording is {seconds:.1f} s long; correct the times")


def _check_query(query: Query, channel: int | str) -> None:
    """See that a query is audio, and one that is a whole file neither silent nor too short."""
    if os.path.isdir(query.path):
        raise AudioError(f"{query.path}: a query is a sound, and this is a folder; give files in it")
    blocks = iter_blocks(query.path, _CHECK_RATE, excerpt=Excerpt(channel_of(query.path, channel)))
    if query.start is None:
        _check_sound(query.path, blocks, _CHECK_RATE)
    else:
        next(blocks)


def _check_sound(name: str, blocks: Iterable[Float32], sample_rate: int) -> None:
    """See that a query, read no further than that takes, is neither silent nor too short."""
    count, low, high = 0, np.inf, -np.inf
    for block in blocks:
        count, low, high = count + block.size, min(low, block.min()), max(high, block.max())
        if low < high and count >= SHORTEST * sample_rate:
            return
    if count < SHORTEST * sample_rate:
        raise AudioError(f"{name}: a query of {count / sample_rate:.3f} s; give one of at least {SHORTEST} s")
    raise AudioError(f"{name}: a silent query; give one with a sound, as call.wav, or call.wav:12.5-14 for a part")


def _embed_query(query: Query, settings: Mapping[str, Any], encoder: Encoder) -> Float32:
    """Embed a sound as the rows of a table were: same features, layer, windows and channel, mean over the windows."""
    path, start, end = query
    channel, rate, options = settings.get("channel", "mix"), encoder.sample_rate, embed_options(settings)
    if start is None:
        whole: Float32 = embed(path, encoder=encoder, channels=channel_of(path, channel), **options)
        return whole
    [waveform], seconds = load_parts(path, rate, [(start, end)], channel)
    check_times(f"{path}: the query", start, end, seconds)
    _check_sound(f"{path}:{start:g}-{end:g}", [waveform], rate)
    part: Float32 = embed(waveform, rate, encoder=encoder, **options)
    return part


def embed_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `embed` that make rows as those of an embeddings file were made, by its settings."""
    defaults = {"features": "concat", "layer": "head", "window_seconds": None, "hop_seconds": None}
    return {name: settings.get(name, default) for name, default in defaults.items()}


def table_encoder(
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    model: str | None = None,
    device: str = "auto",
    *,
    local_files_only: bool = False,
) -> Encoder:
    """The encoder that an embeddings file was made with, by its settings; errors call the file `path`.

    `model` says where the weights are, if not where they were; the other arguments and errors are those of `load`.

    Raises:
        ConfigError: weights other than those of the file, or nothing that tells which they were.
    """
    name, expected = model or settings.get("model"), settings.get("model_sha256")
    if name is None or (expected is None and model is None):
        said = "does not say by which weights it was made, as files of mtslvr 0.1 do not"
        raise ConfigError(f"{path}: {said}; embed again, or name them with --model")
    folder = find(name, local_files_only=local_files_only)
    found = checkpoint.sha256(folder / checkpoint.WEIGHTS_NAME)
    if expected is not None and found != expected:
        raise ConfigError(
            f"{path}: made with {settings.get('model')!r} (sha256 {expected[:12]}), and {str(name)!r} is {found[:12]} "
            "here; give the same weights with --model, or embed again"
        )
    encoder = load(folder, device=device)
    made_with = settings.get("encoder")
    if made_with is not None and EncoderConfig.from_dict(made_with) != encoder.config:
        raise ConfigError(f"{path}: made with another config.json than that of {str(name)!r}; embed again")
    return encoder
