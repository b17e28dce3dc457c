"""`mtslvr plot`: an embeddings file to a map."""

from __future__ import annotations

from pathlib import Path

import click

from .common import PATH, Command, choice, counted, echo


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
def plot_command(
    embeddings: Path,
    output: Path,
    labels: str | None,
    clusters: int | None,
    method: str,
    audio: Path | None,
    offline: bool,
    title: str | None,
) -> None:
    """Draw a map of EMBEDDINGS, a file that mtslvr-embed wrote: a point a row, near where they sound alike.

    Needs `pip install 'mtslvr[plot]'`.
    """
    from ..analysis import plot
    from ..errors import ConfigError
    from ..run.table import read_table

    plot.check_plot(output, method)
    if labels is not None and clusters is not None:
        raise ConfigError(f"--labels {labels} and --clusters {clusters}: colours tell one of them; leave one out")
    if (audio is not None or offline) and output.suffix.lower() not in plot.PAGES:
        raise ConfigError(f"{output}: --audio and --offline are for a page; end the name in .html")
    table = read_table(embeddings)
    if clusters is None:
        classes = plot.read_labels(table, labels or "by-folder")
    else:
        classes = plot.clusters(table.embeddings, clusters)
    made = [table.settings.get(key, "") for key in ("model", "features")]
    drawn = plot.Map(
        plot.project(table.embeddings, method),
        classes,
        plot.row_names(table),
        title or ", ".join([embeddings.name, *(Path(str(text)).name for text in made if text)]),
        ("first principal component", "second principal component") if method == "pca" else ("UMAP 1", "UMAP 2"),
        () if audio is None else plot.sounds(table, audio, output),
    )
    plot.draw(output, drawn, offline)
    what = "classes" if clusters is None else "clusters"
    echo(f"{output}: {counted(len(classes), 'point')}, {len(set(classes))} {what}", err=True)
