"""`mtslvr models`: what is bundled, registered and in the hub's cache; one model with its card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import Command

if TYPE_CHECKING:
    from ..registry import Card, Model


@click.command("models", cls=Command, short_help="List the models on this machine, or show one.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Of the hub.  [default: HF_HOME's]")
def models_command(name: str | None, as_json: bool, cache_dir: Path | None) -> None:
    """List the models that are bundled, registered or in the hub's cache; with NAME show one and its card.

    NAME is a name of the list or a checkpoint folder. The hub is not asked.
    """
    from ..registry import models

    if name is None:
        rows = models(cache_dir)
        if as_json:
            click.echo(json.dumps([row.to_dict() for row in rows], indent=2))
        else:
            click.echo(table(rows) if rows else "no models; get one with `mtslvr download org/name`")
        return
    model = find_model(name, cache_dir)
    if as_json:
        click.echo(json.dumps({**model.to_dict(), "card": model.card.text}, indent=2))
    else:
        click.echo(details(model))


def find_model(name: str, cache_dir: Path | None) -> Model:
    """The model that `name` means, without the hub.

    Raises:
        HubError: neither in the list nor a folder.
    """
    from dataclasses import replace

    from ..errors import HubError
    from ..hub import find
    from ..registry import models, read_model

    rows = models(cache_dir)
    row = next((row for row in rows if row.name == name), None)
    if row is not None:
        if row.folder is None or row.source != "registered":
            return row
        return replace(read_model(name, row.source, row.folder), config=row.config)
    if Path(name).expanduser().is_dir():
        return read_model(name, "folder", Path(name).expanduser())
    try:
        return read_model(name, "cached", find(name, cache_dir=cache_dir, local_files_only=True))
    except HubError as error:
        listed = ", ".join(row.name for row in rows) or "none"
        raise HubError(f"{error}. Models here: {listed}") from None


def table(rows: Sequence[Model]) -> str:
    """One line a model."""
    lines = [["NAME", "SOURCE", "ADAPTER", "FEATURES", "SIZE", "LICENCE", "TRAINED ON", "FEW-SHOT"]]
    for row in rows:
        trained = row.card.training_data
        lines.append(
            [
                row.name,
                row.source + ("" if row.folder else ", not downloaded"),
                row.config.adapter.value if row.config else "-",
                widths(row) or row.problem,
                megabytes(row.size),
                row.card.licence or "none given",
                ", ".join(trained[:2]) + (f" and {len(trained) - 2} more" if len(trained) > 2 else "") or "not told",
                headline(row.card),
            ]
        )
    columns = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, columns, strict=True)).rstrip() for line in lines]
    hint = (
        "FEW-SHOT is the accuracy in % of both features by logistic regression, or the first figure of a card that "
        "does not give it.\n`mtslvr models NAME` shows all figures of a model and its card."
    )
    return "\n".join([*text, "", hint])


def details(model: Model) -> str:
    """All that is known of one model, its card last."""
    config = model.config
    facts = {
        "source": model.source,
        "folder": str(model.folder) if model.folder else f"not downloaded; `mtslvr download {model.name}`",
        "adapter": config.adapter.value if config else "",
        "features": widths(model),
        "input": f"{config.frontend.sample_rate} Hz, windows of {config.window_seconds:g} s" if config else "",
        "size": megabytes(model.size),
        "licence": model.card.licence or "none given",
        "trained on": ", ".join(model.card.training_data) or "not told",
        "problem": model.problem,
    }
    lines = [model.name, *(f"  {key:10}  {value}" for key, value in facts.items() if value)]
    figures = [f"    {f.dataset}: {f.task}, {f.metric}: {f.value}" for f in model.card.figures]
    lines += ["  figures", *figures] if figures else []
    return "\n".join([*lines, "", model.card.text] if model.card.text else lines)


def widths(model: Model) -> str:
    """Features and their widths."""
    return ", ".join(f"{name} {width}" for name, width in model.to_dict()["dims"].items())


def headline(card: Card) -> str:
    """A figure a data set: the one for concatenated features and logistic regression, else the first."""
    best: dict[str, float | str] = {}
    for figure in card.figures:
        dataset = figure.dataset_id or figure.dataset
        if dataset not in best or ("concat" in figure.metric and "logistic" in figure.metric):
            best[dataset] = figure.value
    return ", ".join(f"{dataset} {value}" for dataset, value in best.items()) or "not told"


def megabytes(size: int) -> str:
    """A size for readers."""
    return f"{size / 1e6:.1f} MB" if size else "-"
