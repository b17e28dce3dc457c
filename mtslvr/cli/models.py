"""`mtslvr models`: what is bundled and in the hub's cache; one model with its card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import Command

if TYPE_CHECKING:
    from ..registry import Card, Model

HINT = """
FEW-SHOT is the accuracy in % of both features by logistic regression, or the first figure of a card without it.
`mtslvr models NAME` shows all figures of a model and its card."""


@click.command("models", cls=Command, short_help="List the models on this machine, or show one.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Of the hub.  [default: HF_HOME's]")
def models_command(name: str | None, as_json: bool, cache_dir: Path | None) -> None:
    """List the models that are bundled or in the hub's cache; with NAME show one and its card.

    NAME is a name of the list or a checkpoint folder. The hub is not asked.
    """
    from ..registry import models

    if name is not None:
        model = find_model(name, cache_dir)
        shown = json.dumps({**model.to_dict(), "card": model.card.text}, indent=2) if as_json else details(model)
    elif as_json:
        shown = json.dumps([row.to_dict() for row in models(cache_dir)], indent=2)
    else:
        shown = table(models(cache_dir))
    click.echo(shown)


def find_model(name: str, cache_dir: Path | None) -> Model:
    """The model that `name` means, without the hub.

    Raises:
        HubError: neither in the list nor a folder.
    """
    from ..errors import HubError
    from ..hub import find
    from ..registry import models, read_model

    rows = models(cache_dir)
    try:
        folder = find(name, cache_dir=cache_dir, local_files_only=True)
    except HubError as error:
        broken = [row for row in rows if row.name == name]  # A commit that came without its weights, for instance.
        if broken:
            return broken[0]
        raise HubError(f"{error}. Models here: {', '.join(row.name for row in rows) or 'none'}") from None
    sources = {row.folder.resolve(): row.source for row in rows}
    return read_model(name, sources.get(folder.resolve(), "folder"), folder)


def table(rows: Sequence[Model]) -> str:
    """A line a model, and below what is wrong with any."""
    if not rows:
        return "no models; get one with `mtslvr download org/name`"
    cells = [summary(row) for row in rows]
    lines = [[key.upper() for key in cells[0]], *(list(cell.values()) for cell in cells)]
    columns = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(n) for cell, n in zip(line, columns, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *(f"\n{row.name}: {row.problem}" for row in rows if row.problem), HINT])


def summary(row: Model) -> dict[str, str]:
    """The cells of a model, by heading."""
    trained = row.card.training_data
    more = f" and {len(trained) - 2} more" if len(trained) > 2 else ""
    return {
        "name": row.name,
        "source": row.source,
        "adapter": row.config.adapter.value if row.config else "-",
        "features": widths(row) or "-",
        "size": f"{row.size / 1e6:.1f} MB",
        "licence": row.card.licence or "none given",
        "trained on": ", ".join(trained[:2]) + more or "not told",
        "few-shot": headline(row.card),
    }


def details(model: Model) -> str:
    """All that is known of one model, its card last."""
    config = model.config
    facts = {
        "source": model.source,
        "folder": str(model.folder),
        "adapter": config.adapter.value if config else "",
        "features": widths(model),
        "input": f"{config.frontend.sample_rate} Hz, windows of {config.window_seconds:g} s" if config else "",
        "size": f"{model.size / 1e6:.1f} MB",
        "licence": model.card.licence or "none given",
        "trained on": ", ".join(model.card.training_data) or "not told",
        "problem": model.problem,
    }
    lines = [f"  {key:10}  {value}" for key, value in facts.items() if value]
    return "\n".join([model.name, *lines, *figures(model.card), *(["", model.card.text] if model.card.text else [])])


def figures(card: Card) -> list[str]:
    """The figures of a card, under their data set and task."""
    longest = max((len(figure.metric) for figure in card.figures), default=0)
    lines = ["  few-shot"] if card.figures else []
    for figure in card.figures:
        known_as = f" ({figure.dataset_id})" if figure.dataset_id not in ("", figure.dataset) else ""
        title = "    " + ", ".join(filter(None, (figure.dataset + known_as, figure.task)))
        lines += [title] if title not in lines else []
        lines.append(f"      {figure.metric.ljust(longest)}  {figure.value}")
    return lines


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
