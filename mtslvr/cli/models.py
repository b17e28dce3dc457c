"""`mtslvr models`: what is bundled, registered and in the hub's cache; one model with its card."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
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
            click.echo(table(rows, terminal_width()) if rows else "no models; get one with `mtslvr download org/name`")
        return
    model = find_model(name, cache_dir)
    if as_json:
        click.echo(json.dumps({**model.to_dict(), "card": model.card.text}, indent=2))
    else:
        click.echo(details(model, terminal_width()))


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


HINT = (
    "FEW-SHOT is the accuracy in % of both features by logistic regression, or the first figure of a card that does "
    "not give it.",
    "`mtslvr models NAME` shows all figures of a model and its card.",
)


def table(rows: Sequence[Model], width: int | None) -> str:
    """A line a model, or a paragraph each where lines would not fit a terminal of `width` columns."""
    cells = [summary(row) for row in rows]
    lines = [[key.upper() for key in cells[0]], *(list(cell.values()) for cell in cells)]
    columns = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(n) for cell, n in zip(line, columns, strict=True)).rstrip() for line in lines]
    if width is not None and max(map(len, text)) > width:
        text = [part for cell in cells for part in (cell.pop("name"), *pairs(cell, width), "")][:-1]
    problems = [f"{row.name}: {row.problem}" for row in rows if row.problem]
    below = ["", *problems, "", *HINT] if problems else ["", *HINT]
    return "\n".join([*text, *(line for said in below for line in wrapped(said, width))])


def summary(row: Model) -> dict[str, str]:
    """The cells of a model, by heading."""
    trained = row.card.training_data
    return {
        "name": row.name,
        "source": row.source + ("" if row.folder else ", not downloaded"),
        "adapter": row.config.adapter.value if row.config else "-",
        "features": widths(row) or "-",
        "size": megabytes(row.size),
        "licence": row.card.licence or "none given",
        "trained on": ", ".join(trained[:2]) + (f" and {len(trained) - 2} more" if len(trained) > 2 else "")
        or "not told",
        "few-shot": headline(row.card),
    }


def details(model: Model, width: int | None) -> str:
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
    lines = [model.name, *pairs(facts, width), *figures(model.card, width)]
    return "\n".join([*lines, "", model.card.text] if model.card.text else lines)


def figures(card: Card, width: int | None) -> list[str]:
    """The figures of a card, under their data set and task."""
    longest = max((len(figure.metric) for figure in card.figures), default=0)
    lines, last = [], ""
    for figure in card.figures:
        known_as = f" ({figure.dataset_id})" if figure.dataset_id not in ("", figure.dataset) else ""
        title = ", ".join(filter(None, (figure.dataset + known_as, figure.task)))
        lines += wrapped(title, width, "    ") if title != last else []
        lines.append(f"      {figure.metric.ljust(longest)}  {figure.value}")
        last = title
    return ["  few-shot", *lines] if lines else []


def pairs(facts: Mapping[str, str], width: int | None) -> list[str]:
    """Keys and values side by side; empty values are left out."""
    return [line for key, value in facts.items() if value for line in wrapped(value, width, f"  {key:10}  ", " " * 14)]


def wrapped(text: str, width: int | None, first: str = "", rest: str | None = None) -> list[str]:
    """Text as lines of `width` columns at most; words, paths among them, stay whole."""
    if width is None:
        return [first + text]
    # A very narrow terminal breaks lines itself.
    return textwrap.wrap(
        text,
        max(width, 40),
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first]


def terminal_width() -> int | None:
    """Columns, where a person reads the output."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


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
