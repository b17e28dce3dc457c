"""Deprecated: read outputs with `mtslvr.read_table`, see docs/compatibility.md."""

import warnings

from .run.table import EmbeddingTable, read_table

__all__ = ["EmbeddingTable", "read_npz", "read_table"]

warnings.warn("mtslvr.writer is deprecated and gone in 0.4; use mtslvr.read_table", DeprecationWarning, stacklevel=2)
read_npz = read_table
