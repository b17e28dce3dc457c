"""`mtslvr similar`: the places of an embeddings file that sound most like another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import Command, check_stdout, echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..search import Hit


@click.command("similar", cls=Command, short_help="Find the places of an embeddings file that sound like a query.")
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...", type=click.Path())
@click.option(
    "-k", "count", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="How many places."
)
@click.option("--threshold", type=float, help="The least cosine; neighbouring windows that have it are one place.")
@click.option("--per-file", is_flag=True, help="Each file once, by its nearest window.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--model", help="Where the weights are, if not where they were.  [default: those of EMBEDDINGS]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
def similar_command(
    embeddings: Path,
    queries: tuple[str, ...],
    count: int,
    threshold: float | None,
    per_file: bool,
    as_json: bool,
    model: str | None,
    device: str,
) -> None:
    """List the places of EMBEDDINGS nearest to the audio file QUERY by cosine similarity, nearest first.

    QUERY is embedded as EMBEDDINGS was, with the same weights; call.wav:12.5-14 is the part from 12.5 to 14 s. Of
    several queries the nearest counts, and is named. Where EMBEDDINGS has a row a window, windows that touch or
    overlap a nearer one are the same place.
    """
    from ..models.hub import parse_device
    from ..search import similar

    check_stdout()
    parse_device(device)
    hits = similar(embeddings, queries, k=count, threshold=threshold, per_file=per_file, model=model, device=device)
    if as_json:
        click.echo(json.dumps([{**vars(hit), "query": queries[hit.query]} for hit in hits], indent=2))
    else:
        for line in format_hits(hits, queries):
            echo(line)
    if not hits:
        echo(f"no place has a cosine of {threshold:g} or more; lower --threshold", err=True)


def format_hits(hits: list[Hit], queries: Sequence[str]) -> list[str]:
    """A heading, and a line a place; of several queries, with the one that it is nearest to."""
    width, several = len(str(len(hits))), len(queries) > 1
    lines = [f"{'#':>{width}}  cosine  seconds          file{'  (nearest query)' * several}"]
    for hit in hits:
        seconds = f"{hit.start:.2f} to {hit.end:.2f}"
        query = f"  ({queries[hit.query]})" * several
        lines.append(f"{hit.rank:>{width}}  {hit.score:6.3f}  {seconds:15}  {hit.file}{query}")
    return lines
