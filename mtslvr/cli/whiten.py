"""`mtslvr whiten`: a training run to a checkpoint folder with whitening heads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from .common import PATH, Command

NONE = "none"


@click.command("whiten", cls=Command, short_help="Give a trained encoder other heads, without training it anew.")
@click.argument("run", type=PATH)
@click.argument("out_dir", type=PATH)
@click.option("--power", type=float, help="0 only rotates, 1 evens out what differs within clips.  [default: 1]")
@click.option("--ridge", type=float, help="Added to variances, share of their mean.  [default: 1]")
@click.option("--variant-ridge", type=float, help="The same for the variant head.  [default: 0.1]")
@click.option("--clips", type=int, help="Clips to measure on.  [default: 4096]")
@click.option("--crop-seconds", type=float, help="Length of the crops of these clips, in seconds.  [default: 2.5]")
@click.option("--source-balance", type=float, help="0 draws every clip alike often, 1 every source.  [default: 0.5]")
@click.option("--variant-scale", type=float, help="Length of variant over invariant embeddings.  [default: 0.35]")
@click.option(
    "--spectral-statistics/--no-spectral-statistics",
    default=None,
    help="Let the variant head read statistics of the mel bands, too.  [default: on]",
)
@click.option(
    "--invariant-rows", metavar="ROWS",
    help="What the invariant head reads: maxima over time of these rows of stages 3 and 4, such as "
    "layer3=2:4,layer4=1:3, with ,means also their means; none is what it read in training.  "
    "[default: layer3=2:4,layer4=1:3]",
)  # fmt: skip
@click.option("--variant-rows", metavar="ROWS", help="The same for the variant head.  [default: none]")
@click.option(
    "--disturb/--no-disturb", default=None,
    help="Shrink for the invariant head what a whisper, another microphone and a background change, too.  "
    "[default: on]",
)  # fmt: skip
def whiten_command(run: Path, out_dir: Path, **options: Any) -> None:
    """Write the checkpoint of the training run RUN into OUT_DIR with other heads than it has.

    `mtslvr train` makes heads at its end, as its config says; this makes them again. An option that is not given is as
    it was there; the defaults below are the recipe's. The heads become principal components over the run's own clips,
    after directions in which two crops of a clip differ much have been shrunk.
    """
    given = changes(options)

    from ..training.config import HeadsConfig
    from ..training.run import read_config
    from ..training.whiten import whiten

    heads = dataclasses.replace(read_config(run).heads or HeadsConfig(), **given)
    click.echo(f"checkpoint: {whiten(run, out_dir, heads)}")


def changes(options: dict[str, Any]) -> dict[str, Any]:
    """Settings of `HeadsConfig` from the options that are given."""
    from ..config import Rows
    from ..errors import ConfigError

    given = {name: value for name, value in options.items() if value is not None}
    for name in ("invariant_rows", "variant_rows"):
        if name in given:
            try:
                given[name] = None if given[name] == NONE else Rows.parse(given[name])
            except ConfigError as error:
                raise ConfigError(str(error).replace("rows=", f"{name}=")) from None
    return given
