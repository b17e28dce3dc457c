"""`mtslvr similar` and `plot`: an embeddings file searched and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from ..errors import ConfigError
from .common import DEVICE, PATH, Command, check_stdout, choice, counted, echo


@click.command("similar", cls=Command, short_help="Find the places of an embeddings file that sound like a query.")
@click.argument("embeddings", type=PATH)
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...", type=click.Path())
@click.option(
    "-k", "count", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="How many places."
)
@click.option("--threshold", type=float, help="The least cosine; neighbouring windows that have it are one place.")
@click.option("--per-file", is_flag=True, help="Each file once, by its nearest window.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--model", help="Where the weights are, if not where they were.  [default: those of EMBEDDINGS]")
@DEVICE
def similar_command(embeddings: Path, queries: tuple[str, ...], count: int, as_json: bool, **options: Any) -> None:
    """List the places of EMBEDDINGS nearest to the audio file QUERY by cosine similarity, nearest first.

    QUERY is embedded as EMBEDDINGS was, with the same weights; call.wav:12.5-14 is the part from 12.5 to 14 s. Of
    several queries the nearest counts, and is named. Where EMBEDDINGS has a row a window, windows that touch or
    overlap a nearer one are the same place.
    """
    from ..models.hub import parse_device
    from ..search import similar

    check_stdout()
    parse_device(options["device"])
    hits = similar(embeddings, queries, k=count, **options)
    if as_json:
        click.echo(json.dumps([{**vars(hit), "query": queries[hit.query]} for hit in hits], indent=2))
    else:
        width, several = len(str(len(hits))), len(queries) > 1
        echo(f"{'#':>{width}}  cosine  seconds          file{'  (nearest query)' * several}")
        for hit in hits:
            seconds, query = f"{hit.start:.2f} to {hit.end:.2f}", f"  ({queries[hit.query]})" * several
            echo(f"{hit.rank:>{width}}  {hit.score:6.3f}  {seconds:15}  {hit.file}{query}")
    if not hits:
        echo(f"no place has a cosine of {options['threshold']:g} or more; lower --threshold", err=True)


@click.command("plot", cls=Command, short_help="Draw a map of an embeddings file.")
@click.argument("embeddings", type=PATH)
@click.option(
    "-o", "--out", "output", required=True, type=PATH, metavar="MAP",
    help="A picture (.png, .svg, .pdf), or a page (.html) that names the files under the pointer.",
)  # fmt: skip
@click.option(
    "--labels", metavar="by-folder|none|FILE.csv",
    help="What the colours tell: the folder of a file, nothing, or the label that a csv of file and label gives it.  "
    "[default: by-folder]",
)  # fmt: skip
@click.option("--clusters", type=int, metavar="N", help="Colour N groups of rows that sound alike, found by k-means.")
@choice("--method", ["pca", "umap"], "Principal components, or UMAP, which keeps neighbours together.")
@click.option(
    "--audio", type=PATH, metavar="FOLDER",
    help="The folder that was embedded: a click on a point of a page plays its sound.",
)  # fmt: skip
@click.option("--offline", is_flag=True, help="Put plotly into the page, which opens without network then; 5 MB more.")
@click.option("--title", help="Above the map.  [default: name, model and features of the file]")
def plot_command(embeddings: Path, output: Path, **options: Any) -> None:
    """Draw a map of EMBEDDINGS, a file that mtslvr-embed wrote: a point a row, near where they sound alike.

    Needs `pip install 'mtslvr[plot]'`.
    """
    from ..analysis import plot
    from ..run.table import read_table

    call = SimpleNamespace(**options)
    plot.check_plot(output, call.method)
    if call.labels is not None and call.clusters is not None:
        both = f"--labels {call.labels} and --clusters {call.clusters}"
        raise ConfigError(f"{both}: colours tell one of them; leave one out")
    if (call.audio is not None or call.offline) and output.suffix.lower() not in plot.PAGES:
        raise ConfigError(f"{output}: --audio and --offline are for a page; end the name in .html")
    table = read_table(embeddings)
    if call.clusters is None:
        classes = plot.read_labels(table, call.labels or "by-folder")
    else:
        classes = plot.clusters(table.embeddings, call.clusters)
    made = [table.settings.get(key, "") for key in ("model", "features")]
    drawn = plot.Map(
        plot.project(table.embeddings, call.method),
        classes,
        plot.row_names(table),
        call.title or ", ".join([embeddings.name, *(Path(str(text)).name for text in made if text)]),
        ("first principal component", "second principal component") if call.method == "pca" else ("UMAP 1", "UMAP 2"),
        () if call.audio is None else plot.sounds(table, call.audio, output),
    )
    plot.draw(output, drawn, call.offline)
    what = "classes" if call.clusters is None else "clusters"
    echo(f"{output}: {counted(len(classes), 'point')}, {len(set(classes))} {what}", err=True)
