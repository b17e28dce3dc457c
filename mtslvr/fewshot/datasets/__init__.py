"""The paper's ten datasets, read as they were published: `prepare(name, root, split)` to a `LabelledSet`."""

from .registry import DATASETS, PublishedDataset, prepare
from .splits import SPLITS, read_split

__all__ = ["DATASETS", "SPLITS", "PublishedDataset", "prepare", "read_split"]
