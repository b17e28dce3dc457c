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
    "--disturb/--no-disturb",
    default=True,
    help="Shrink for the invariant head what a whisper, another microphone and a background change, too.  "
    "Default: disturb.",
)
def whiten_command(run: Path, out_dir: Path, **settings: Any) -> None:
    """Write the checkpoint of the training run RUN into OUT_DIR with heads that whiten its pooled features.

    The heads become principal components over the run's own clips, after directions in which two crops of a clip differ
    much have been shrunk.
    """
    from ..training.whiten import whiten

    click.echo(f"checkpoint: {whiten(run, out_dir, **settings)}")
