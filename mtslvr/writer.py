"""The former home of `mtslvr.read_table` and `read_npz`, see docs/compatibility.md."""

from .run.table import EmbeddingTable, read_npz, read_table

__all__ = ["EmbeddingTable", "read_npz", "read_table"]
