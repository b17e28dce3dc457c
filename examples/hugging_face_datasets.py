"""Embeddings as a column of a Hugging Face data set, beside its Audio column.

Needs `pip install 'mtslvr[datasets]'`. Run from the repository root: python examples/hugging_face_datasets.py
"""

from pathlib import Path
from typing import Any

from datasets import Audio, Dataset

import mtslvr

paths = sorted(str(path) for path in Path("examples/audio").glob("*/*"))
# Or load_dataset("org/name", split="train"). load_dataset("audiofolder") needs torchcodec; a list of paths does not.
data = Dataset.from_dict({"audio": paths, "label": [Path(path).parent.name for path in paths]})
# So the column holds paths or bytes, and mtslvr decodes them; otherwise datasets does, which needs torchcodec, too.
data = data.cast_column("audio", Audio(decode=False))
encoder = mtslvr.load()


def embed(batch: dict[str, list[Any]]) -> dict[str, Any]:
    return {"embedding": mtslvr.embed(batch["audio"], encoder=encoder)}


data = data.map(embed, batched=True, batch_size=8)
print(data.features)

rows = data.with_format("numpy")[:]
print(rows["embedding"].shape, rows["embedding"].dtype, sorted(set(rows["label"].tolist())))
