"""`mtslvr whiten`: a training run to a checkpoint folder with whitening heads."""

from __future__ import annotations

from pathlib import Path

import click

from .common import Command


@click.command("whiten", cls=Command, short_help="Give a trained encoder heads that whiten its features.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option("--power", type=float, default=0.5, show_default=True, help="0 only rotates, 1 makes variances equal.")
@click.option("--ridge", type=float, default=0.01, show_default=True, help="Added to variances, share of their mean.")
@click.option("--batches", type=int, default=16, show_default=True, help="Batches of crops to measure on.")
def whiten_command(run: Path, out_dir: Path, power: float, ridge: float, batches: int) -> None:
    """Write the checkpoint of the training run RUN into OUT_DIR with heads that whiten its pooled features.

    The heads become principal components over the run's own clips, each divided by a power of its standard deviation.
    """
    from ..training.whiten import whiten

    click.echo(f"checkpoint: {whiten(run, out_dir, power=power, ridge=ridge, batches=batches)}")
