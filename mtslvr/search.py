"""Which rows of an embeddings file are nearest to a sound; `mtslvr similar` prints them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checkpoint
from .api import embed
from .config import EncoderConfig
from .encoder import Encoder
from .errors import ConfigError
from .hub import find, load
from .writer import EmbeddingTable

_BLOCK = 8192  # rows at once


@dataclass(frozen=True)
class Hit:
    """A file that is near.

    Attributes:
        rank: from 1.
        score: cosine similarity, -1 to 1.
        file: its name in the table.
        start: of the row that is nearest, in seconds.
        end: likewise.
    """

    rank: int
    score: float
    file: str
    start: float
    end: float


def nearest(table: EmbeddingTable, query: npt.NDArray[np.float32], k: int = 10) -> list[Hit]:
    """The files of a table nearest to a query by cosine, each by its best row.

    Args:
        table: from `read_table`.
        query: (D,).
        k: how many files.
    Raises:
        ConfigError: `k` below 1, no rows, or another width.
    """
    if k < 1:
        raise ConfigError(f"k={k}: must be at least 1")
    width = table.embeddings.shape[1]
    if len(table.paths) == 0 or query.shape != (width,):
        raise ConfigError(f"query of {query.shape[-1]} numbers, {len(table.paths)} rows of {width}: cannot be compared")
    scores = cosine(table.embeddings, query)
    hits: dict[str, Hit] = {}
    for row in np.argsort(-scores, kind="stable"):
        name = table.paths[row]
        if name not in hits:
            place = float(table.start[row]), float(table.end[row])
            hits[name] = Hit(len(hits) + 1, float(scores[row]), name, *place)
            if len(hits) == k:
                break
    return list(hits.values())


def cosine(embeddings: npt.NDArray[np.float32], query: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Cosine similarity (n,) of rows (n, D) and a query (D,), 0 where either is all zeros."""
    unit = np.asarray(query, np.float64)
    unit = unit / max(float(np.linalg.norm(unit)), 1e-30)
    scores = np.empty(len(embeddings))
    for first in range(0, len(embeddings), _BLOCK):
        rows = np.asarray(embeddings[first : first + _BLOCK], np.float64)
        scores[first : first + _BLOCK] = rows @ unit / np.maximum(np.linalg.norm(rows, axis=1), 1e-30)
    return scores


def embed_query(audio: str | os.PathLike[str], table: EmbeddingTable, encoder: Encoder) -> npt.NDArray[np.float32]:
    """Embed a sound as the rows of a table were: same features, layer and windows, mean over the windows.

    Raises:
        AudioError: see `mtslvr.embed`.
    """
    settings = table.settings
    return embed(
        audio,
        features=settings.get("features", "concat"),
        layer=settings.get("layer", "head"),
        window_seconds=settings.get("window_seconds"),
        hop_seconds=settings.get("hop_seconds"),
        encoder=encoder,
    )


def table_encoder(
    path: str | os.PathLike[str], settings: dict[str, Any], model: str | None = None, device: str = "auto"
) -> Encoder:
    """The encoder that an embeddings file was made with.

    Args:
        path: what errors call the file.
        settings: of the file.
        model: where the weights are, if not where they were.
        device: see `mtslvr.load`.
    Raises:
        ConfigError: weights other than those of the file, or nothing that tells which they were.
        HubError, CheckpointError: see `mtslvr.load`.
    """
    name, expected = model or settings.get("model"), settings.get("model_sha256")
    if name is None or (expected is None and model is None):
        said = "does not say by which weights it was made, as files of mtslvr 0.1 do not"
        raise ConfigError(f"{path}: {said}; embed again, or name them with --model")
    folder = find(name)
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
