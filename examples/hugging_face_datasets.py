"""Embeddings as a column of a Hugging Face data set, beside its Audio column.

Needs `pip install 'mtslvr[datasets]'`. Run from the repository root: python examples/hugging_face_datasets.py
"""

import io
from pathlib import Path
from typing import Any

from datasets import Audio, Dataset

import mtslvr

paths = sorted(str(path) for path in Path("examples/audio").glob("*/*"))
# Or load_dataset(...). With decode=False the column holds files or their bytes, and mtslvr decodes them itself.
data = Dataset.from_dict({"audio": paths, "label": [Path(path).parent.name for path in paths]})
data = data.cast_column("audio", Audio(decode=False))
encoder = mtslvr.load()


def embed(batch: dict[str, list[Any]]) -> dict[str, Any]:
    files = [io.BytesIO(audio["bytes"]) if audio["bytes"] else audio["path"] for audio in batch["audio"]]
    return {"embedding": mtslvr.embed(files, encoder=encoder)}


data = data.map(embed, batched=True, batch_size=8)
print(data.features)

rows = data.with_format("numpy")[:]
print(rows["embedding"].shape, rows["embedding"].dtype, sorted(set(rows["label"].tolist())))
