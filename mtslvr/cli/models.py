"""`mtslvr models`: what is bundled and in the hub's cache; one model with its card."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .common import PATH, Command, check_stdout, echo

HINT = """\
few-shot: accuracy in % of both embeddings by logistic regression, or the first figure of a card.
`mtslvr models NAME` shows all figures of a model and its card."""


@click.command("models", cls=Command, short_help="List the models on this machine, or show one.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--cache-dir", type=PATH, help="Of the hub.  [default: HF_HOME's]")
def models_command(name: str | None, as_json: bool, cache_dir: Path | None) -> None:
    """List the models that are bundled or in the hub's cache; with NAME show one and its card.

    NAME is a name of the list or a checkpoint folder. The hub is not asked.
    """
    from ..models.registry import models

    check_stdout()
    rows = models(cache_dir)
    if name is not None:
        model = find_model(name, cache_dir, rows)
        shown = json.dumps(model, indent=2) if as_json else details(model)
    elif as_json:
        shown = json.dumps([{key: row[key] for key in row if key != "card"} for row in rows], indent=2)
    else:
        blocks = ["\n".join(facts(row, most=2)) for row in rows]
        shown = "\n\n".join([*blocks, HINT]) if rows else "no models; get one with `mtslvr download org/name`"
    for line in shown.split("\n"):  # cards come from hubs
        echo(line)


def find_model(name: str, cache_dir: Path | None, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The model that `name` means, in the list or a folder; the hub is not asked."""
    from ..errors import HubError
    from ..models.hub import find
    from ..models.registry import read_model

    try:
        folder = find(name, cache_dir=cache_dir, local_files_only=True)
    except HubError as error:
        raise HubError(f"{error}. Models here: {', '.join(row['name'] for row in rows) or 'none'}") from None
    sources = {Path(row["folder"]).resolve(): row["source"] for row in rows}
    return read_model(name, sources.get(folder.resolve(), "folder"), folder)


def facts(row: dict[str, Any], most: int) -> list[str]:
    """Lines of what is known of a model, with `most` names of its training data."""
    trained = row["training_data"]
    more = f" and {len(trained) - most} more" if len(trained) > most else ""
    told = {
        "source": row["source"],
        "adapter": row["adapter"] or "-",
        "features": ", ".join(f"{name} {width}" for name, width in row["dims"].items()) or "-",
        "size": f"{row['size_bytes'] / 1e6:.1f} MB",
        "licence": row["licence"] or "none given",
        "trained on": ", ".join(trained[:most]) + more or "not told",
        "problem": row["problem"],
        "few-shot": headline(row["few_shot"]),
    }
    lines = [row["name"]]
    for key, value in told.items():
        lines += textwrap.wrap(f"  {key:10}  {value}", 100, subsequent_indent=" " * 14) if value else []
    return lines


def details(row: dict[str, Any]) -> str:
    """All that is known of one model, its card last."""
    lines = facts(row, most=len(row["training_data"]))
    lines.insert(2, f"  folder      {row['folder']}")
    if row["sample_rate"]:
        lines.insert(3, f"  input       {row['sample_rate']} Hz, windows of {row['window_seconds']:g} s")
    longest = max((len(figure["metric"]) for figure in row["few_shot"]), default=0)
    for figure in row["few_shot"]:
        known_as = f" ({figure['dataset_id']})" if figure["dataset_id"] not in ("", figure["dataset"]) else ""
        title = "    " + ", ".join(filter(None, (figure["dataset"] + known_as, figure["task"])))
        lines += [title] if title not in lines else []
        lines.append(f"      {figure['metric'].ljust(longest)}  {figure['value']}")
    return "\n".join([*lines, "", row["card"]] if row["card"] else lines)


def headline(figures: Sequence[dict[str, Any]]) -> str:
    """A figure a data set: the one for concatenated features and logistic regression, else the first."""
    best: dict[str, float | str] = {}
    for figure in figures:
        dataset = figure["dataset_id"] or figure["dataset"]
        if dataset not in best or ("concat" in figure["metric"] and "logistic" in figure["metric"]):
            best[dataset] = figure["value"]
    return ", ".join(f"{dataset} {value}" for dataset, value in best.items()) or "not told"
