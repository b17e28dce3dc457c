"""`mtslvr whiten`: a training run to a checkpoint folder with whitening heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import Command


@click.command("whiten", cls=Command, short_help="Give a trained encoder heads that whiten its features.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option(
    "--power", type=float, default=1.0, show_default=True, help="0 only rotates, 1 evens out what differs within clips."
)
@click.option("--ridge", type=float, default=0.1, show_default=True, help="Added to variances, share of their mean.")
@click.option(
    "--variant-ridge", type=float, default=None, help="The same for the variant head.  Default: that of --ridge."
)
@click.option("--clips", type=int, default=4096, show_default=True, help="Clips to measure on.")
@click.option("--crop-seconds", type=float, default=2.5, show_default=True, help="Length of the crops of these clips.")
@click.option("--source-balance", type=float, default=0.5, show_default=True, help="0 draws clips alike, 1 sources.")
@click.option(
    "--variant-scale", type=float, default=1.0, show_default=True, help="Length of variant over invariant embeddings."
)
@click.option("--average-with", type=click.Path(path_type=Path), help="Checkpoint to average the weights with before.")
@click.option("--share", type=float, default=0.5, show_default=True, help="Of the run's weights in the average.")
@click.option("--spectral-statistics", is_flag=True, help="Let the variant head read statistics of the mel bands, too.")
@click.option(
    "--invariant-rows",
    metavar="ROWS",
    help="What the invariant head reads: maxima over time of these rows of stages 3 and 4, such as "
    "layer3=2:4,layer4=1:3.  Default: what it did.",
)
@click.option("--variant-rows", metavar="ROWS", help="The same for the variant head.")
@click.option(
    "--disturb/--no-disturb",
    default=True,
    help="Shrink for the invariant head what a whisper, another microphone and a background change, too.  "
    "Default: disturb.",
)
def whiten_command(
    run: Path, out_dir: Path, invariant_rows: str | None, variant_rows: str | None, **settings: Any
) -> None:
    """Write the checkpoint of the training run RUN into OUT_DIR with heads that whiten its pooled features.

    The heads become principal components over the run's own clips, after directions in which two crops of a clip differ
    much have been shrunk.
    """
    from ..config import Rows
    from ..training.whiten import whiten

    given = {"invariant_rows": invariant_rows, "variant_rows": variant_rows}
    settings.update((name, None if text is None else Rows.parse(text)) for name, text in given.items())
    click.echo(f"checkpoint: {whiten(run, out_dir, **settings)}")
