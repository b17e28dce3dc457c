"""Batches of paths come in, tables with embeddings go out: a stateful callable for Ray Data; needs the extra [ray].

Ray calls it and is not imported here, so it works on any batch without Ray as well.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .audio.windows import Pool
from .config import Features, Layer
from .errors import ConfigError
from .models.hub import load
from .run.extract import ExtractConfig, FileEmbeddings, Source, extract
from .run.sources import make_source

Table: TypeAlias = Any  # pyarrow has no types
COLUMNS = ("embedding", "start", "end", "error")


class AudioEmbedder:
    """Loads a model once an actor and embeds batch after batch.

        import ray
        from mtslvr.ray import AudioEmbedder

        ray.data.from_items([{"path": path} for path in paths]).map_batches(
            AudioEmbedder,
            fn_constructor_kwargs={"features": "concat"},
            batch_size=64,
            compute=ray.data.ActorPoolStrategy(size=4),
            num_cpus=4,
        ).write_parquet("embeddings")

    With `num_gpus=1` an actor has a GPU of its own, which "auto" takes; without one, torch has as many threads as
    `num_cpus`, to which Ray sets OMP_NUM_THREADS. The parquet files hold plain lists, which pandas, Polars and pyarrow
    read without Ray.

    Args:
        model, device, dtype: what `mtslvr.load` takes; None is the bundled default.
        features, layer, window_seconds, hop_seconds, threads: see `mtslvr.embed`.
        pool: "mean", a row a file, or "none", a row a window.
        batch_size: windows at once through the encoder, whatever the size of Ray's batches.
        path_column: column of paths, or of the bytes of whole files, as `ray.data.read_binary_files` has them, or of
            both, {"path", "bytes"}, as data sets of Hugging Face are stored.
    Raises:
        ConfigError: unknown features, layer, pool, device or dtype, numbers outside their range.
        HubError, CheckpointError: see `mtslvr.load`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        features: Features | str = Features.CONCAT,
        layer: Layer | str = Layer.HEAD,
        window_seconds: float | None = None,
        hop_seconds: float | None = None,
        pool: Pool | str = Pool.MEAN,
        device: str = "auto",
        dtype: str = "float32",
        batch_size: int = 32,
        threads: int = 2,
        path_column: str = "path",
    ) -> None:
        self.config = ExtractConfig.parse(
            features, layer, pool, window_seconds, hop_seconds, batch_size, threads, fixed_batches=True
        )
        self.encoder = load(model, device=device, dtype=dtype)
        self.path_column = path_column

    def __call__(self, batch: Mapping[str, npt.NDArray[Any]] | Table) -> Table:
        """Embed the files of a batch.

        Args:
            batch: columns as NumPy arrays, which is Ray's default, or a pyarrow table.
        Returns:
            A pyarrow table of the same columns and embedding (fixed-size lists of float32), start and end (seconds)
            and error. A file that cannot be read has one row with its error, the other three being null.
        Raises:
            ConfigError: no column of paths, a column named like a new one; window or hop outside its range.
        """
        table = batch if isinstance(batch, pa.Table) else pa.table({k: _column(v) for k, v in batch.items()})
        names = table.column_names
        if self.path_column not in names:
            raise ConfigError(f"path_column={self.path_column!r}: not among the columns {', '.join(names) or '(none)'}")
        if taken := [name for name in COLUMNS if name in names]:
            raise ConfigError(f"column {taken[0]!r}: there already; rename it with rename_columns before")
        sources = map(_source, table.column(self.path_column).to_pylist())
        results = list(extract(sources, self.encoder, self.config))
        rows = [max(len(result.embeddings), 1) for result in results]
        table = table.take(pa.array(np.repeat(np.arange(len(results)), rows)))
        width = self.encoder.embedding_dim(self.config.features, self.config.layer)
        for name, column in zip(COLUMNS, _columns(results, width), strict=True):
            table = table.append_column(name, column)
        return table


def _column(values: npt.NDArray[Any]) -> Table:
    """Lists for the inner dimensions of an array, or of the arrays in one."""
    values = np.asarray(values)
    if values.dtype == object:
        return pa.array([value.tolist() if np.ndim(value) > 1 else value for value in values])
    column = pa.array(values.reshape(-1))
    for dimension in range(values.ndim - 1, 0, -1):
        count, size = np.prod(values.shape[:dimension], dtype=int), values.shape[dimension]
        column = pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * size, pa.int32()), column)
    return column


def _source(value: Any) -> Source:
    return make_source(io.BytesIO(value) if isinstance(value, bytes) else "" if value is None else value)


def _columns(results: list[FileEmbeddings], width: int) -> list[Table]:
    """The new columns; a result without rows is one row of nulls and its error."""
    rows: list[tuple[Any, ...]] = []
    for result in results:
        if result.error is not None:
            rows.append((None, None, None, str(result.error)))
        rows += [(row, *span, None) for row, span in zip(result.embeddings, result.spans.tolist(), strict=True)]
    kinds = pa.list_(pa.float32(), width), pa.float64(), pa.float64(), pa.string()
    columns = list(zip(*rows, strict=True)) or [()] * len(kinds)
    return [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
