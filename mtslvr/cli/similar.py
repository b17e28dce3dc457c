"""`mtslvr similar`: the files of an embeddings file that sound most like another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import Command, check_stdout, echo

if TYPE_CHECKING:
    from ..search import Hit


@click.command("similar", cls=Command, short_help="Find the files of an embeddings file that sound like another.")
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.argument("query", type=click.Path())
@click.option(
    "-k", "count", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="How many files."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--model", help="Where the weights are, if not where they were.  [default: those of EMBEDDINGS]")
@click.option("--device", default="auto", show_default=True)
def similar_command(embeddings: Path, query: str, count: int, as_json: bool, model: str | None, device: str) -> None:
    """List the files of EMBEDDINGS nearest to the audio file QUERY by cosine similarity, nearest first.

    QUERY is embedded as EMBEDDINGS was, with the same weights. Where EMBEDDINGS has a row a window, each file
    stands for its nearest window.
    """
    from ..audio import iter_blocks
    from ..hub import parse_device
    from ..search import embed_query, nearest, table_encoder
    from ..writer import read_table

    check_stdout()
    parse_device(device)
    table = read_table(embeddings)
    next(iter_blocks(query, 16_000))  # raises where it is no audio
    encoder = table_encoder(embeddings, table.settings, model, device)
    hits = nearest(table, embed_query(query, table, encoder), count)
    if as_json:
        click.echo(json.dumps([vars(hit) for hit in hits], indent=2))
    else:
        for line in format_hits(hits):
            echo(line)


def format_hits(hits: list[Hit]) -> list[str]:
    """A heading, and a line a file."""
    width = len(str(len(hits)))
    lines = [f"{'#':>{width}}  cosine  seconds          file"]
    for hit in hits:
        seconds = f"{hit.start:.2f} to {hit.end:.2f}"
        lines.append(f"{hit.rank:>{width}}  {hit.score:6.3f}  {seconds:15}  {hit.file}")
    return lines
