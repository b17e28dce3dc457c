"""Which models there are, bundled and in the hub's cache, and what their cards say; for `mtslvr models`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Features
from ..errors import CheckpointError, one_line
from . import checkpoint, hub

_LONGEST_TEXT = 200  # of one value in a card


@dataclass(frozen=True)
class Card:
    """What a model card says, as far as mtslvr uses it; `figures` are the model-index, as `_figure` makes them."""

    licence: str = ""
    training_data: tuple[str, ...] = ()
    figures: tuple[dict[str, Any], ...] = ()
    library: str = ""
    text: str = ""


def models(cache_dir: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
    """Everything that is bundled or in the hub's cache, as `read_model` tells it; the hub is not asked."""
    from huggingface_hub import scan_cache_dir  # slow to import, and most of this module does without
    from huggingface_hub.errors import CacheNotFound

    rows = [read_model(name, "bundled", folder) for name, folder in hub.bundled().items()]
    try:
        info = scan_cache_dir(None if cache_dir is None else Path(cache_dir))
    except (CacheNotFound, ValueError, OSError):  # No folder, or a file in its place.
        return rows
    for repo in sorted(info.repos, key=lambda repo: repo.repo_id):
        for revision in sorted(repo.revisions, key=lambda revision: revision.commit_hash):
            label = "" if "main" in revision.refs else "@" + min(revision.refs, default=revision.commit_hash)
            if repo.repo_type == "model" and _is_ours(revision.snapshot_path):
                rows.append(read_model(repo.repo_id + label, "cached", revision.snapshot_path))
    return rows


def _is_ours(folder: Path) -> bool:
    """Whether a folder in the cache, where most are other libraries', is a checkpoint of any version of mtslvr."""
    path = folder / checkpoint.CONFIG_NAME
    try:
        small = path.stat().st_size <= checkpoint.LARGEST_CONFIG and (folder / checkpoint.WEIGHTS_NAME).exists()
        return small and "format_version" in json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError, TypeError):  # "in" of a number is a TypeError.
        return False


def read_model(name: str, source: str, folder: Path) -> dict[str, Any]:
    """What `mtslvr models --json` tells of a checkpoint folder; what cannot be read is its "problem"."""
    config, card, problems = None, Card(), []
    try:
        config = checkpoint.read_config(folder / checkpoint.CONFIG_NAME)
    except CheckpointError as error:
        problems.append(str(error))
    try:
        card = read_card(folder)
    except CheckpointError as error:
        problems.append(str(error))
    weights = folder / checkpoint.WEIGHTS_NAME
    return {
        "name": name,
        "source": source,
        "folder": str(folder),
        "features": [] if config is None else [kind.value for kind in Features],
        "dims": {} if config is None else {kind.value: config.embedding_dim(kind) for kind in Features},
        "adapter": None if config is None else config.adapter.value,
        "sample_rate": None if config is None else config.frontend.sample_rate,
        "window_seconds": None if config is None else config.window_seconds,
        "training_data": list(card.training_data),
        "few_shot": list(card.figures),
        "size_bytes": weights.stat().st_size if weights.is_file() else 0,
        "licence": card.licence or None,
        "problem": "; ".join(problems) or None,
        "card": card.text,
    }


def read_card(folder: Path) -> Card:
    """The model card of a checkpoint folder; an empty one where there is no README.md."""
    path = folder / checkpoint.CARD_NAME
    if not path.exists():
        return Card()
    from huggingface_hub import ModelCard

    if path.stat().st_size > checkpoint.LARGEST_CARD:
        said = f"{path.stat().st_size} bytes; a model card has at most {checkpoint.LARGEST_CARD}"
        raise CheckpointError(f"{path}: {said}")
    try:
        card = ModelCard(path.read_text(encoding="utf-8-sig"))
    except Exception as error:  # whatever PyYAML and huggingface_hub raise on text from anywhere
        said = f"not a model card ({type(error).__name__}: {one_line(error)})"
        raise CheckpointError(f"{path}: {said}; correct the YAML between the two lines of ---") from None
    data: Any = card.data
    return Card(
        licence=_text(getattr(data, "license_name", None)) or _text(data.license),
        training_data=tuple(filter(None, map(_text, _list(data.datasets)))),
        figures=tuple(map(_figure, _list(data.eval_results))),
        library=_text(data.library_name),
        text="".join(c for c in card.text if c.isprintable() or c in "\n\t").strip(),  # nothing that a terminal obeys
    )


def _figure(result: Any) -> dict[str, Any]:
    value = result.metric_value
    return {
        "dataset_id": _text(result.dataset_type),
        "dataset": _text(result.dataset_name) or _text(result.dataset_type),
        "task": _text(result.task_name) or _text(result.task_type),
        "metric": _text(result.metric_name) or _text(result.metric_type),
        "value": value if isinstance(value, float) or type(value) is int else _text(value),
    }


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(value: object) -> str:
    """Text or a number of a card; nested values, which may be of any size, are dropped."""
    return one_line(value, _LONGEST_TEXT) if isinstance(value, (str, int, float)) else ""
