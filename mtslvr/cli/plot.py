"""`mtslvr plot`: an embeddings file to a map."""

from __future__ import annotations

from pathlib import Path

import click

from .common import Command, choice, counted, echo


@click.command("plot", cls=Command, short_help="Draw a map of an embeddings file.")
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="MAP",
    help="A picture (.png, .svg, .pdf), or a page (.html) that names the files under the pointer.",
)  # fmt: skip
@click.option(
    "--labels", default="by-folder", show_default=True, metavar="by-folder|none|FILE.csv",
    help="What the colours tell: the folder of a file, nothing, or the label that a csv of file and label gives it.",
)  # fmt: skip
@choice("--method", ["pca", "umap"], "Principal components, or UMAP, which keeps neighbours together.")
@click.option("--title", help="Above the map.  [default: name, model and features of the file]")
def plot_command(embeddings: Path, output: Path, labels: str, method: str, title: str | None) -> None:
    """Draw a map of EMBEDDINGS, a file that mtslvr-embed wrote: a point a row, near where they sound alike.

    Needs `pip install 'mtslvr[plot]'`.
    """
    from ..analysis.plot import check_plot, draw, project, read_labels, row_names
    from ..run.table import read_table

    check_plot(output, method)
    table = read_table(embeddings)
    classes = read_labels(table, labels)
    points = project(table.embeddings, method)
    made = [table.settings.get(key, "") for key in ("model", "features")]
    title = title or ", ".join([embeddings.name, *(Path(str(text)).name for text in made if text)])
    names = ("first principal component", "second principal component") if method == "pca" else ("UMAP 1", "UMAP 2")
    draw(output, points, classes, row_names(table), title, names)
    echo(f"{output}: {counted(len(points), 'point')}, {len(set(classes))} classes", err=True)
